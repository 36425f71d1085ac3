// What the least-privilege policies refuse, and how each client is told.
'use strict';
const path = require('node:path');
const { assert, config, connect, Inbox, Service, step, within } = require('./lib');

module.exports = async () => {
  const c = config();
  const me = 'SDK-5-v2', other = 'SDK-3-v1';
  const cert = path.join(c.dir, `${me}.pem`), key = path.join(c.dir, `${me}.key`);

  await step('MQTT 5: another client identifier is refused', async () => {
    await assert.rejects(connect(5, other, cert, key), (e) => e.connack && e.connack.reasonCode === 0x87);
  });
  await step('MQTT 3.1.1: another client identifier is refused', async () => {
    await assert.rejects(connect(3, other, cert, key));
  });
  await step('MQTT 5: wrong topics are refused with 0x87, and the connection lives', async () => {
    const d = await connect(5, me, cert, key);
    for (const topic of [`$aws/things/${other}/shadow/update`, `dt/${other}/x`, 'x', `$aws/certificates/create/json`, `$aws/provisioning-templates/${c.template}/provision/json`]) {
      assert.equal((await d.publish(topic, '{}', 1)).reasonCode, 0x87, topic);
    }
    for (const filter of ['#', '+/+/+', '$aws/#', `$aws/things/${other}/shadow/#`, `dt/${other}/#`, 'dt/+/x', `$share/all/dt/#`]) {
      assert.deepEqual(await d.subscribe(filter, new Inbox()), { refused: true, code: 0x87 }, filter);
    }
    assert.equal((await d.publish(`dt/${me}/x`, 'still here', 1)).reasonCode & 0x80, 0);
    await d.close();
  });
  await step('MQTT 3.1.1: a wrong filter gets 0x80, a wrong topic ends the connection', async () => {
    const thing = 'SDK-3-v2';
    const d = await connect(3, thing, path.join(c.dir, `${thing}.pem`), path.join(c.dir, `${thing}.key`));
    assert.equal((await d.subscribe(`dt/${me}/#`, new Inbox())).refused, true);
    assert.equal((await d.subscribe(`dt/${thing}/#`, new Inbox())).refused, false);
    d.publish(`dt/${me}/x`, 'no', 1).catch(() => {}); // nothing says no but the end
    const e = await within('the end of the connection', d.interrupted);
    assert.equal(e.error_name, 'AWS_ERROR_MQTT_UNEXPECTED_HANGUP');
    d.raw.disconnect().catch(() => {}); // ends when its next try would be due
  });
  for (const version of [3, 5]) {
    await step(`MQTT ${version}: the service clients say that another thing is not theirs`, async () => {
      const d = await connect(version, me, cert, key);
      const shadow = new Service('shadow', 'v2', d), jobs = new Service('jobs', 'v2', d);
      const refused = (e) => /SUBSCRIBE_FAILURE|SUBSCRIPTION_FAILURE/.test(`${e.internalError && e.internalError.error_name} ${e.internalError}`);
      await assert.rejects(shadow.ask('getShadow', { thingName: other }), refused);
      await assert.rejects(jobs.ask('getPendingJobExecutions', { thingName: other }), refused);
      shadow.close();
      jobs.close();
      await d.close();
    });
  }
  await step('a claim certificate provisions, and does nothing else', async () => {
    const d = await connect(5, 'setup-x', c.claimCert, c.claimKey);
    for (const topic of [`dt/${me}/x`, `$aws/things/${me}/shadow/get`, '$aws/provisioning-templates/another/provision/json']) {
      assert.equal((await d.publish(topic, '{}', 1)).reasonCode, 0x87, topic);
    }
    assert.equal((await d.subscribe(`$aws/things/${me}/#`, new Inbox())).refused, true);
    await d.close();
    // Under a device's name it is still nobody but the claim.
    const named = await connect(5, me, c.claimCert, c.claimKey);
    assert.equal((await named.publish(`dt/${me}/x`, 'x', 1)).reasonCode, 0x87);
    await named.close();
  });
};
