// Fleet provisioning: four devices come with the claim certificate, two with a
// request of their own, two with a key that the service makes.
'use strict';
const { execFileSync } = require('node:child_process');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { assert, config, connect, everyWay, Inbox, Service, step } = require('./lib');

const keyKinds = { 'SDK-3-v1': ['rsa:2048'], 'SDK-5-v2': ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256'] };

module.exports = async () => {
  const c = config();
  await everyWay(async (way, thing) => {
    const cert = path.join(c.dir, `${thing}.pem`), key = path.join(c.dir, `${thing}.key`);
    const say = (what) => `${way.name}: ${what}`;
    let claim, identity, made;

    await step(say('connects with the claim certificate'), async () => {
      claim = await connect(way.version, `setup-${thing}`, c.claimCert, c.claimKey);
      identity = new Service('identity', way.kind, claim);
    });
    if (keyKinds[thing]) {
      await step(say('a certificate for its own request'), async () => {
        const csr = path.join(c.dir, `${thing}.csr`);
        execFileSync('openssl', ['req', '-new', '-newkey', ...keyKinds[thing], '-nodes', '-subj', `/CN=${thing}`, '-keyout', key, '-out', csr], { stdio: 'ignore' });
        made = await identity.accepted('createCertificateFromCsr', { certificateSigningRequest: fs.readFileSync(csr, 'utf8') }, {});
        assert.equal(made.privateKey, undefined);
      });
    } else {
      await step(say('a certificate and the key that the service made'), async () => {
        made = await identity.accepted('createKeysAndCertificate', {}, {});
        fs.writeFileSync(key, made.privateKey, { mode: 0o600 });
      });
    }
    await step(say('the certificate is what it says'), async () => {
      const x = new crypto.X509Certificate(made.certificatePem);
      assert.equal(made.certificateId, crypto.createHash('sha256').update(x.raw).digest('hex'));
      assert.ok(x.checkPrivateKey(crypto.createPrivateKey(fs.readFileSync(key))));
      assert.equal(made.certificatePem.match(/BEGIN CERTIFICATE/g).length, 1);
      assert.ok(made.certificateOwnershipToken.length > 0 && made.certificateOwnershipToken.length <= 512);
      fs.writeFileSync(cert, made.certificatePem);
    });
    await step(say('it does not work before the registration'), async () => {
      await assert.rejects(connect(way.version, thing, cert, key));
    });
    const register = (token, parameters) => ['registerThing', { templateName: c.template, certificateOwnershipToken: token, parameters }, { templateName: c.template }];
    await step(say('clear refusals of a registration'), async () => {
      let no = await identity.rejected(...register(made.certificateOwnershipToken + 'x', { SerialNumber: thing }));
      assert.deepEqual([no.statusCode, no.errorCode], [400, 'InvalidCertificateOwnershipToken']);
      assert.ok(no.errorMessage);
      no = await identity.rejected(...register(made.certificateOwnershipToken, {}));
      assert.deepEqual([no.statusCode, no.errorCode], [400, 'InvalidParameters']);
      assert.match(no.errorMessage, /SerialNumber/);
      no = await identity.rejected(...register(made.certificateOwnershipToken, { SerialNumber: c.victim }));
      assert.deepEqual([no.statusCode, no.errorCode], [409, 'ResourceConflict']);
      no = await identity.rejected(...register(made.certificateOwnershipToken, { SerialNumber: thing, 'AWS::IoT::Certificate::Id': c.victimCertificate }));
      assert.deepEqual([no.statusCode, no.errorCode], [400, 'InvalidParameters']);
    });
    await step(say('is registered'), async () => {
      const done = await identity.accepted(...register(made.certificateOwnershipToken, { SerialNumber: thing }));
      assert.equal(done.thingName, thing);
      assert.equal(done.deviceConfiguration.endpoint, `${c.host}:${c.port}`);
    });
    await step(say('a used token is refused'), async () => {
      const no = await identity.rejected(...register(made.certificateOwnershipToken, { SerialNumber: thing + '-2' }));
      assert.deepEqual([no.statusCode, no.errorCode], [400, 'InvalidCertificateOwnershipToken']);
    });
    await step(say('leaves, and connects as the thing'), async () => {
      identity.close();
      await claim.close();
      const device = await connect(way.version, thing, cert, key);
      const inbox = new Inbox();
      assert.equal((await device.subscribe(`dt/${thing}/#`, inbox)).refused, false);
      await device.publish(`dt/${thing}/hello`, 'hello', 1);
      assert.deepEqual(await inbox.next(), { topic: `dt/${thing}/hello`, body: 'hello', retain: false });
      if (way.version === 5) {
        const s = device.settings;
        assert.deepEqual([s.maximumQos, s.retainAvailable, s.wildcardSubscriptionsAvailable, s.sharedSubscriptionsAvailable, s.receiveMaximumFromServer, s.maximumPacketSizeToServer, s.serverKeepAlive],
          [1, true, true, true, 100, 149504, 60]);
      }
      await device.close();
    });
  });
};
