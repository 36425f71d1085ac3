// A device that changes its own certificate, with the AWS IoT device SDK and the openssl
// command for key and request.
//
// The directory holds root.pem, a.pem and a.key (what the device has), and gets b.pem
// and b.key. The file "active" says which pair is in use, "rotation.json" how far a
// change is. Every file is complete and synced before the next step, so the program
// may be killed anywhere and started again. With birth.pem and birth.key, and the address
// of the device door, it registers anew if both pairs are refused.
//
//   node device.js DIRECTORY HOST:PORT THING [https://HOST:PORT]
"use strict";
const { execFileSync } = require("node:child_process");
const crypto = require("node:crypto");
const fs = require("node:fs");
const https = require("node:https");
const path = require("node:path");
const { iot, mqtt } = require("aws-iot-device-sdk-v2");

const [directory, endpoint, thing, door] = process.argv.slice(2);
const at = (name) => path.join(directory, name);
const read = (name, otherwise) => (fs.existsSync(at(name)) ? fs.readFileSync(at(name), "utf8") : otherwise);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// sync replaces a file, which is complete at its new name, durably.
function sync(temporary, name) {
  for (const [file, then] of [[at(temporary), () => fs.renameSync(at(temporary), at(name))], [directory, () => {}]]) {
    const fd = fs.openSync(file, "r");
    fs.fsyncSync(fd);
    fs.closeSync(fd);
    then();
  }
}

function write(name, data) {
  fs.writeFileSync(at(name + ".new"), data, { mode: 0o600 });
  sync(name + ".new", name);
}

const certificateId = (pair) => new crypto.X509Certificate(read(pair + ".pem")).fingerprint256.replaceAll(":", "").toLowerCase();

// request gives a CSR for the pair's key, which is made if there is none.
function request(pair) {
  if (!fs.existsSync(at(pair + ".key"))) {
    const { privateKey } = crypto.generateKeyPairSync("ec", { namedCurve: "P-256" });
    write(pair + ".key", privateKey.export({ type: "pkcs8", format: "pem" }));
  }
  return execFileSync("openssl", ["req", "-new", "-key", at(pair + ".key"), "-subj", "/CN=device"], { encoding: "utf8" });
}

let open; // the newest connection

// connect is one connection as one of the two certificates.
async function connect(pair) {
  open?.close(); // one that was lost would come back by itself, and end this one
  const [host, port] = endpoint.split(":");
  const config = iot.AwsIotMqttConnectionConfigBuilder.new_mtls_builder_from_path(at(pair + ".pem"), at(pair + ".key"))
    .with_certificate_authority_from_path(undefined, at("root.pem")).with_endpoint(host).with_port(Number(port)).with_client_id(thing).with_clean_session(true).build();
  const client = new mqtt.MqttClient().new_connection(config);
  const waiting = new Map();
  let lost;
  client.on("error", () => {}); // whoever waits for an answer hears of it
  client.on("interrupt", (err) => {
    lost = err; // nothing is subscribed any more: what is asked now gets no answer
    for (const one of [...waiting.values()]) one.fail(err);
  });
  await client.connect();
  const listen = (topic, payload) => {
    const answer = JSON.parse(Buffer.from(payload).toString());
    waiting.get(answer.clientToken)?.take(topic, answer);
  };
  const jobs = `$aws/things/${thing}/jobs`;
  const close = () => client.disconnect().catch(() => {});
  open = { close };
  for (const filter of [`$hallmark/things/${thing}/certificate/renew/+`, `${jobs}/start-next/+`, `${jobs}/+/update/+`]) {
    await client.subscribe(filter, mqtt.QoS.AtLeastOnce, listen);
  }
  const ask = (topic, body) => new Promise((done, fail) => {
    if (lost) throw lost;
    const clientToken = crypto.randomUUID();
    const end = (then, value) => {
      waiting.delete(clientToken);
      clearTimeout(timer);
      then(value);
    };
    const timer = setTimeout(() => end(fail, new Error("no answer to " + topic)), 30000);
    waiting.set(clientToken, {
      take: (on, answer) => (on === topic + "/accepted" ? end(done, answer) : end(fail, new Error(`${answer.code}: ${answer.message}`))),
      fail: (err) => end(fail, err),
    });
    client.publish(topic, JSON.stringify({ ...body, clientToken }), mqtt.QoS.AtLeastOnce).catch((err) => end(fail, err));
  });
  const update = (job, status, statusDetails) => ask(`${jobs}/${job}/update`, { status, statusDetails });
  return { ask, update, close };
}

// rotate does one job, from where the last life left it; the connection to go on with.
// The journal says how far it is: "issue", "trial", then "connected" or "fallback".
async function rotate(connection, job, document) {
  const active = read("active", "a");
  let journal = JSON.parse(read("rotation.json", "{}"));
  const step = (name) => {
    journal.step = name;
    write("rotation.json", JSON.stringify(journal));
  };
  if (journal.job !== job) {
    journal = { job, from: active, to: active === "a" ? "b" : "a" };
    for (const ending of [".pem", ".key"]) fs.rmSync(at(journal.to + ending), { force: true });
    step("issue");
  }
  const { from, to } = journal;
  if (journal.step === "issue") {
    const answer = await connection.ask(`$hallmark/things/${thing}/certificate/renew`, { csr: request(to) });
    write(to + ".pem", answer.certificatePem + answer.chainPem);
    await connection.update(job, "IN_PROGRESS", { step: "issued", certificateId: certificateId(to) });
    step("trial");
  }
  if (journal.step === "trial") {
    await connection.close();
    for (let attempt = 0; journal.step === "trial"; attempt++) {
      try {
        connection = await connect(to);
        write("active", to); // proven: from now on it is the one
        step("connected");
      } catch (err) {
        journal.code = err.message;
        if (attempt + 1 < (document.connect?.attempts ?? 5)) {
          await pause(Math.min(2 ** attempt, 60) * 1000);
          continue;
        }
        step("fallback");
        connection = await connect(from);
      }
    }
  }
  const used = journal.step === "connected" ? to : from;
  await connection.update(job, used === to ? "SUCCEEDED" : "FAILED", { step: journal.step, code: journal.code ?? "", certificateId: certificateId(used) });
  console.log(`${job}: ${journal.step}, uses ${used}`);
  return connection;
}

// register gets a pair anew, as the device that the factory made.
async function register(pair) {
  for (const ending of [".pem", ".key"]) fs.rmSync(at(pair + ending), { force: true });
  const body = JSON.stringify({ csr: Buffer.from(request(pair)).toString("base64") });
  const options = { method: "POST", ca: read("root.pem"), cert: read("birth.pem"), key: read("birth.key"), agent: false, headers: { "Content-Type": "application/json" } };
  const answer = await new Promise((done, fail) => {
    const r = https.request(door + "/bootstrap/v1/register", options, (res) => {
      let text = "";
      res.on("data", (part) => (text += part));
      res.on("end", () => (res.statusCode === 200 ? done(JSON.parse(text)) : fail(new Error(text))));
    });
    r.on("error", fail).end(body);
  });
  const pem = (der) => new crypto.X509Certificate(Buffer.from(der, "base64")).toString();
  write(pair + ".pem", [answer.certificate, ...answer.chain].map(pem).join(""));
}

// What says nothing about a certificate: the service was not reached.
const unreached = (err) => /AWS_IO_(SOCKET|DNS)|AWS_ERROR_MQTT_TIMEOUT|no answer/.test(`${err.error_name} ${err.message}`);

// anyhow connects with the pair in use, else with the other one, else registers anew.
async function anyhow() {
  for (let refusals = 0; ; ) {
    const active = read("active", "a");
    const other = active === "a" ? "b" : "a";
    let refused = true;
    for (const pair of [active, other]) {
      if (!fs.existsSync(at(pair + ".pem"))) continue; // it was being made when the power went
      try {
        const connection = await connect(pair);
        if (pair !== active) write("active", pair);
        return connection;
      } catch (err) {
        refused &&= !unreached(err);
      }
    }
    refusals = refused ? refusals + 1 : 0;
    if (refusals === 2 && door && fs.existsSync(at("birth.pem"))) await register(other);
    await pause(Math.min(2 ** refusals, 60) * 1000);
  }
}

// live does what it is asked for, until the connection is lost.
async function live(connection) {
  for (;;) {
    const { execution } = await connection.ask(`$aws/things/${thing}/jobs/start-next`, {});
    if (!execution?.jobId) await pause(2000);
    else if (execution.jobDocument.operation !== "rotate-certificate" || execution.jobDocument.undo) {
      await connection.update(execution.jobId, "REJECTED", { reason: "not known to this device" });
    } else connection = await rotate(connection, execution.jobId, execution.jobDocument);
  }
}

(async () => {
  for (;;) {
    try {
      await live(await anyhow());
    } catch (err) {
      console.error(`${err.message}; connecting again`);
      await pause(5000 * Math.random()); // not the whole fleet at one moment
    }
  }
})();
