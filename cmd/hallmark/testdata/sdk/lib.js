// What the scenarios share: connections of both versions of MQTT, both kinds of
// service clients behind one way to ask, and steps that are told to the test.
'use strict';
const assert = require('node:assert/strict');
const { once } = require('node:events');
const readline = require('node:readline');
const { mqtt, mqtt5, iot, io, iotidentity, iotjobs, iotshadow } = require('aws-iot-device-sdk-v2');

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');

// within fails when something takes longer than anything should.
function within(what, promise, ms = 30000) {
  let timer;
  const late = new Promise((_, no) => { timer = setTimeout(() => no(new Error(`${what}: not within ${ms} ms`)), ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// step does one thing and tells the test that it happened.
async function step(name, fn) {
  try {
    const out = await within(name, fn());
    say({ step: name });
    return out;
  } catch (e) {
    say({ failed: name, error: String(e && e.stack || e), answer: e && e.modeledError });
    throw e;
  }
}

// want asks the test to do what a device cannot, such as making a job.
const waiting = [];
readline.createInterface({ input: process.stdin }).on('line', () => waiting.shift()());
function want(what) {
  say({ want: what });
  return new Promise((yes) => { waiting.push(yes); });
}

// Inbox keeps what came until somebody waits for it.
class Inbox {
  constructor() { this.have = []; this.waiter = undefined; }
  put(v) { if (this.waiter) { const w = this.waiter; this.waiter = undefined; w(v); } else this.have.push(v); }
  next(what = 'a message') {
    if (this.have.length) return Promise.resolve(this.have.shift());
    return within(what, new Promise((yes) => { this.waiter = yes; }), 20000);
  }
  get length() { return this.have.length; }
}

const text = (payload) => Buffer.from(payload).toString('utf8');

let config;
const setConfig = (c) => { config = c; };

// connect connects as MQTT 3.1.1 (3) or 5. The returned object has the SDK's
// client as raw and publish, subscribe and close alike for both.
async function connect(version, clientId, cert, key) {
  return version === 5 ? connect5(clientId, cert, key) : connect3(clientId, cert, key);
}

async function connect3(clientId, cert, key) {
  const c = iot.AwsIotMqttConnectionConfigBuilder.new_mtls_builder_from_path(cert, key)
    .with_certificate_authority_from_path(undefined, config.ca).with_endpoint(config.host).with_port(config.port)
    .with_client_id(clientId).with_clean_session(true).with_keep_alive_seconds(60).with_ping_timeout_ms(20000)
    .with_protocol_operation_timeout_ms(20000).with_reconnect_max_sec(60).with_reconnect_min_sec(30).build();
  const raw = new mqtt.MqttClient(new io.ClientBootstrap()).new_connection(c);
  const state = { interrupted: false };
  let cut;
  const interrupted = new Promise((yes) => { cut = yes; });
  raw.on('interrupt', (e) => { state.interrupted = true; cut(e); });
  raw.on('error', () => {});
  await within('CONNECT', raw.connect());
  return {
    version: 3, raw, interrupted, state,
    publish: (topic, body, qos = 1, retain = false) => within('PUBLISH', raw.publish(topic, body, qos, retain)),
    subscribe: async (filter, inbox, qos = 1) => {
      const a = await within('SUBSCRIBE', raw.subscribe(filter, qos, (topic, payload, _dup, _qos, retain) => inbox.put({ topic, body: text(payload), retain })));
      return a.error_code || a.qos >= 0x80 ? { refused: true } : { refused: false };
    },
    close: async () => { await raw.disconnect(); },
  };
}

async function connect5(clientId, cert, key) {
  const b = iot.AwsIotMqtt5ClientConfigBuilder.newDirectMqttBuilderWithMtlsFromPath(config.host, cert, key)
    .withCertificateAuthorityFromPath(undefined, config.ca).withPort(config.port)
    .withConnectProperties({ clientId, keepAliveIntervalSeconds: 60 }).withConnackTimeoutMs(20000).withPingTimeoutMs(20000).withAckTimeoutSeconds(20)
    .withMinReconnectDelayMs(30000).withMaxReconnectDelayMs(60000);
  const raw = new mqtt5.Mqtt5Client(b.build());
  const inboxes = new Map();
  raw.on('error', () => {});
  raw.on('messageReceived', (e) => {
    const m = e.message;
    for (const [filter, inbox] of inboxes) if (matches(filter, m.topicName)) inbox.put({ topic: m.topicName, body: m.payload ? text(m.payload) : '', retain: m.retain });
  });
  const up = once(raw, 'connectionSuccess').then((a) => a[0]);
  const down = once(raw, 'connectionFailure').then((a) => { const f = a[0]; const e = new Error(`connection refused: ${f.error}`); e.connack = f.connack; throw e; });
  down.catch(() => {});
  raw.start();
  let success;
  try {
    success = await within('CONNECT', Promise.race([up, down]));
  } catch (e) {
    const stopped = once(raw, 'stopped');
    raw.stop();
    await stopped;
    raw.close();
    throw e;
  }
  return {
    version: 5, raw, settings: success.settings, connack: success.connack,
    publish: (topic, body, qos = 1, retain = false) => within('PUBLISH', raw.publish({ topicName: topic, payload: body, qos, retain })),
    subscribe: async (filter, inbox, qos = 1) => {
      inboxes.set(filter, inbox);
      const a = await within('SUBSCRIBE', raw.subscribe({ subscriptions: [{ topicFilter: filter, qos }] }));
      return { refused: a.reasonCodes[0] >= 0x80, code: a.reasonCodes[0] };
    },
    close: async () => {
      // A PUBACK that the library queues after the DISCONNECT would stop it from
      // ever leaving, so the last message's goes first.
      await new Promise((yes) => { setTimeout(yes, 20); });
      const stopped = once(raw, 'stopped');
      raw.stop({ reasonCode: mqtt5.DisconnectReasonCode.NormalDisconnection });
      await within('DISCONNECT', stopped);
      raw.close();
    },
  };
}

function matches(filter, topic) {
  const f = filter.split('/'), t = topic.split('/');
  for (let i = 0; i < f.length; i++) {
    if (f[i] === '#') return true;
    if (i >= t.length || f[i] !== '+' && f[i] !== t[i]) return false;
  }
  return f.length === t.length;
}

const services = {
  identity: { v1: iotidentity.IotIdentityClient, v2: iotidentity.IotIdentityClientv2 },
  shadow: { v1: iotshadow.IotShadowClient, v2: iotshadow.IotShadowClientv2 },
  jobs: { v1: iotjobs.IotJobsClient, v2: iotjobs.IotJobsClientv2 },
};

const capital = (s) => s[0].toUpperCase() + s.slice(1);

// Service is one of the SDK's service clients, V1 (callbacks) or V2 (promises).
// ask answers {accepted} or {rejected} for both.
class Service {
  constructor(name, kind, connection) {
    this.name = name; this.kind = kind; this.inboxes = new Map(); this.tokens = 0; this.streams = [];
    const C = services[name][kind];
    if (kind === 'v2') {
      const options = { maxRequestResponseSubscriptions: 12, maxStreamingSubscriptions: 6, operationTimeoutInSeconds: 20 };
      this.client = connection.version === 5 ? C.newFromMqtt5(connection.raw, options) : C.newFromMqtt311(connection.raw, options);
    } else {
      this.client = connection.version === 5 ? C.newFromMqtt5Client(connection.raw) : new C(connection.raw);
    }
  }

  async ask(operation, request, topicOf = request) {
    if (this.kind === 'v2') {
      try {
        return { accepted: await this.client[operation](request) };
      } catch (e) {
        if (e.modeledError) return { rejected: e.modeledError };
        throw e;
      }
    }
    // The callback clients: subscribe to both answers once, publish, wait.
    const id = operation + JSON.stringify(topicOf);
    let inbox = this.inboxes.get(id);
    if (!inbox) {
      inbox = new Inbox();
      this.inboxes.set(id, inbox);
      for (const end of ['Accepted', 'Rejected']) {
        const a = await this.client[`subscribeTo${capital(operation)}${end}`](topicOf, mqtt.QoS.AtLeastOnce, (error, response) => {
          inbox.put(error ? { broken: error } : { [end.toLowerCase()]: response });
        });
        assert.ok(!a.error_code, `${operation} ${end}: SUBACK error ${a.error_code}`);
      }
    }
    const r = { ...request };
    if (this.name !== 'identity') r.clientToken = `${operation}-${++this.tokens}`;
    await this.client[`publish${capital(operation)}`](r, mqtt.QoS.AtLeastOnce);
    const answer = await inbox.next(`the answer to ${operation}`);
    assert.equal(answer.broken, undefined);
    if (r.clientToken) assert.equal((answer.accepted ?? answer.rejected).clientToken, r.clientToken, 'the clientToken comes back');
    return answer;
  }

  async accepted(operation, request, topicOf) {
    const a = await this.ask(operation, request, topicOf);
    assert.ok(a.accepted, `${operation} was rejected: ${JSON.stringify(a.rejected)}`);
    return a.accepted;
  }

  async rejected(operation, request, topicOf) {
    const a = await this.ask(operation, request, topicOf);
    assert.ok(a.rejected, `${operation} was accepted: ${JSON.stringify(a.accepted)}`);
    return a.rejected;
  }

  // events subscribes to events: v1 is the method of the callback client, v2 that
  // of the other.
  async events(v1, v2, request) {
    const inbox = new Inbox();
    if (this.kind === 'v1') {
      const a = await this.client[v1](request, mqtt.QoS.AtLeastOnce, (error, e) => inbox.put(error ?? e));
      assert.ok(!a.error_code, `${v1}: SUBACK error ${a.error_code}`);
      return inbox;
    }
    const stream = this.client[v2](request);
    this.streams.push(stream);
    const status = once(stream, 'subscriptionStatus');
    stream.on('incomingPublish', (e) => inbox.put(e.message));
    stream.on('incomingPublishError', (e) => inbox.put(e.error));
    stream.open();
    const [s] = await within(v2, status);
    assert.equal(s.type, 0, `${v2}: the subscription was not made: ${JSON.stringify(s)}`);
    return inbox;
  }

  close() {
    for (const s of this.streams) s.close();
    if (this.kind === 'v2') this.client.close();
  }
}

// The four ways to speak to the service.
const ways = [
  { name: 'MQTT 3.1.1, callback clients', version: 3, kind: 'v1' },
  { name: 'MQTT 3.1.1, request/response clients', version: 3, kind: 'v2' },
  { name: 'MQTT 5, callback clients', version: 5, kind: 'v1' },
  { name: 'MQTT 5, request/response clients', version: 5, kind: 'v2' },
];

// everyWay does the same in all four ways at once: they are four devices.
const everyWay = (fn) => Promise.all(ways.map((way) => fn(way, `SDK-${way.version}-${way.kind}`)));

module.exports = { assert, connect, config: () => config, everyWay, Inbox, say, Service, setConfig, step, want, within };
