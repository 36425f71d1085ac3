// Device shadow, classic and named, with each kind of client.
'use strict';
const path = require('node:path');
const { assert, config, connect, everyWay, Service, step } = require('./lib');

module.exports = async () => {
  const c = config();
  await everyWay(async (way, thing) => {
    const device = await connect(way.version, thing, path.join(c.dir, `${thing}.pem`), path.join(c.dir, `${thing}.key`));
    const shadow = new Service('shadow', way.kind, device);
    await Promise.all([false, true].map(async (named) => {
      const say = (what) => `${way.name}, ${named ? 'named' : 'classic'} shadow: ${what}`;
      const of = named ? { thingName: thing, shadowName: 'settings' } : { thingName: thing };
      const op = (name) => named ? name.replace('Shadow', 'NamedShadow') : name;
      const accepted = (name, more = {}) => shadow.accepted(op(name), { ...of, ...more }, of);
      const rejected = (name, more = {}) => shadow.rejected(op(name), { ...of, ...more }, of);
      const missing = named ? `No shadow exists with name: '${thing}~settings'` : `No shadow exists with name: '${thing}'`;
      let deltas, documents;

      await step(say('there is none yet'), async () => {
        const no = await rejected('getShadow');
        assert.deepEqual([no.code, no.message], [404, missing]);
        assert.equal((await rejected('deleteShadow')).code, 404);
      });
      await step(say('subscribes to deltas and documents'), async () => {
        deltas = named
          ? await shadow.events('subscribeToNamedShadowDeltaUpdatedEvents', 'createNamedShadowDeltaUpdatedStream', of)
          : await shadow.events('subscribeToShadowDeltaUpdatedEvents', 'createShadowDeltaUpdatedStream', of);
        documents = named
          ? await shadow.events('subscribeToNamedShadowUpdatedEvents', 'createNamedShadowUpdatedStream', of)
          : await shadow.events('subscribeToShadowUpdatedEvents', 'createShadowUpdatedStream', of);
      });
      await step(say('an update makes it, with a delta and a document'), async () => {
        const a = await accepted('updateShadow', { state: { desired: { lamp: { on: true, level: 7 }, mode: 'day' } } });
        assert.equal(a.version, 1);
        assert.deepEqual(a.state, { desired: { lamp: { on: true, level: 7 }, mode: 'day' } });
        assert.ok(a.timestamp);
        const d = await deltas.next('a delta');
        assert.deepEqual([d.version, d.state], [1, { lamp: { on: true, level: 7 }, mode: 'day' }]);
        assert.ok(d.metadata.lamp.level.timestamp > 0);
        const doc = await documents.next('a document');
        assert.equal(doc.current.version, 1);
        assert.deepEqual(doc.current.state.desired, { lamp: { on: true, level: 7 }, mode: 'day' });
      });
      await step(say('the delta is what differs'), async () => {
        const a = await accepted('updateShadow', { state: { reported: { lamp: { on: true, level: 3 }, mode: 'day', own: [1, 2] } } });
        assert.equal(a.version, 2);
        const d = await deltas.next('a delta');
        assert.deepEqual([d.version, d.state], [2, { lamp: { level: 7 } }]);
        const doc = await documents.next('a document');
        assert.deepEqual([doc.previous.version, doc.current.version], [1, 2]);
        assert.deepEqual(doc.current.state.reported.own, [1, 2]);
      });
      await step(say('get gives all of it'), async () => {
        const a = await accepted('getShadow');
        assert.equal(a.version, 2);
        assert.deepEqual(a.state, {
          desired: { lamp: { on: true, level: 7 }, mode: 'day' }, reported: { lamp: { on: true, level: 3 }, mode: 'day', own: [1, 2] }, delta: { lamp: { level: 7 } },
        });
        assert.equal(a.metadata.reported.own.length, 2);
        assert.ok(a.metadata.desired.lamp.on.timestamp > 0);
      });
      await step(say('an update of an old version conflicts'), async () => {
        const no = await rejected('updateShadow', { version: 1, state: { reported: { mode: 'night' } } });
        assert.deepEqual([no.code, no.message], [409, 'Version conflict']);
      });
      await step(say('of the right version it is taken, and without a difference there is no delta'), async () => {
        const a = await accepted('updateShadow', { version: 2, state: { reported: { lamp: { level: 7 }, own: null } } });
        assert.equal(a.version, 3);
        const doc = await documents.next('a document');
        assert.equal(doc.current.version, 3);
        assert.equal(doc.current.state.reported.own, undefined);
        assert.equal(deltas.length, 0);
        assert.equal((await accepted('getShadow')).state.delta, undefined);
      });
      await step(say('what is no shadow is refused'), async () => {
        const no = await rejected('updateShadow', { state: { desired: { a: { b: { c: { d: { e: { f: { g: { h: { i: 1 } } } } } } } } } } });
        assert.equal(no.code, 400);
        const large = await rejected('updateShadow', { state: { reported: { text: 'x'.repeat(9000) } } });
        assert.equal(large.code, 413);
      });
      await step(say('delete, and get after it'), async () => {
        assert.equal((await accepted('deleteShadow')).version, 3);
        const no = await rejected('getShadow');
        assert.deepEqual([no.code, no.message], [404, missing]);
      });
      await step(say('its version goes on after it was deleted'), async () => {
        const a = await accepted('updateShadow', { state: { desired: { mode: 'night' } } });
        assert.ok(a.version > 3, `version ${a.version}`);
        const d = await deltas.next('a delta');
        assert.deepEqual([d.version, d.state], [a.version, { mode: 'night' }]);
        const doc = await documents.next('a document');
        assert.equal(doc.current.version, a.version);
        assert.ok(!doc.previous || !doc.previous.state || Object.keys(doc.previous.state).length === 0, `previous ${JSON.stringify(doc.previous)}`);
        await accepted('deleteShadow');
      });
    }));
    shadow.close();
    await device.close();
  });
};
