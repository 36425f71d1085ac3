// node main.js CONFIG SCENARIO…: runs scenarios one after another. The test that
// starts it knows which steps have to be told.
'use strict';
const fs = require('node:fs');
const lib = require('./lib');

process.on('unhandledRejection', (e) => { lib.say({ failed: 'unhandled rejection', error: String(e && e.stack || e) }); process.exit(1); });

(async () => {
  lib.setConfig(JSON.parse(fs.readFileSync(process.argv[2], 'utf8')));
  for (const name of process.argv.slice(3)) await require(`./${name}.js`)();
  lib.say({ end: true });
  process.exit(0);
})().catch((e) => {
  lib.say({ failed: 'the scenario', error: String(e && e.stack || e) });
  process.exit(1);
});
