// Jobs: one from QUEUED to SUCCEEDED and one REJECTED, with each kind of client.
'use strict';
const path = require('node:path');
const { assert, config, connect, everyWay, Service, step, want } = require('./lib');

module.exports = async () => {
  const c = config();
  await everyWay(async (way, thing) => {
    const say = (what) => `${way.name}: ${what}`;
    const device = await connect(way.version, thing, path.join(c.dir, `${thing}.pem`), path.join(c.dir, `${thing}.key`));
    const jobs = new Service('jobs', way.kind, device);
    const of = { thingName: thing };
    const good = `good-${thing}`, bad = `bad-${thing}`;
    const one = (jobId, more = {}) => [{ ...of, jobId, ...more }, { ...of, jobId }];
    let notify, next;

    await step(say('nothing is pending'), async () => {
      notify = await jobs.events('subscribeToJobExecutionsChangedEvents', 'createJobExecutionsChangedStream', of);
      next = await jobs.events('subscribeToNextJobExecutionChangedEvents', 'createNextJobExecutionChangedStream', of);
      const a = await jobs.accepted('getPendingJobExecutions', of, of);
      assert.deepEqual([a.inProgressJobs, a.queuedJobs], [[], []]);
      assert.equal((await jobs.accepted('startNextPendingJobExecution', of, of)).execution, undefined);
      const no = await jobs.rejected('describeJobExecution', ...one('no-such-job'));
      assert.equal(no.code, 'ResourceNotFound');
    });
    await step(say('a job is announced'), async () => {
      await want({ job: good, thing, document: { operation: 'update', version: 2, parts: ['a', 'b'] } });
      const n = await notify.next('notify');
      assert.deepEqual([Object.keys(n.jobs), n.jobs.QUEUED.length, n.jobs.QUEUED[0].jobId], [['QUEUED'], 1, good]);
      const x = await next.next('notify-next');
      assert.deepEqual([x.execution.jobId, x.execution.status, x.execution.versionNumber, x.execution.jobDocument], [good, 'QUEUED', 1, { operation: 'update', version: 2, parts: ['a', 'b'] }]);
    });
    await step(say('a second one waits behind it'), async () => {
      await want({ job: bad, thing, document: { operation: 'nonsense' } });
      const n = await notify.next('notify');
      assert.deepEqual(n.jobs.QUEUED.map((e) => e.jobId), [good, bad]);
      const a = await jobs.accepted('getPendingJobExecutions', of, of);
      assert.deepEqual([a.inProgressJobs.length, a.queuedJobs.map((e) => e.jobId)], [0, [good, bad]]);
    });
    await step(say('describe, by name and $next'), async () => {
      for (const id of [good, '$next']) {
        const a = await jobs.accepted('describeJobExecution', ...one(id));
        assert.deepEqual([a.execution.jobId, a.execution.thingName, a.execution.status, a.execution.executionNumber, a.execution.jobDocument.version], [good, thing, 'QUEUED', 1, 2]);
      }
    });
    await step(say('start-next'), async () => {
      const a = await jobs.accepted('startNextPendingJobExecution', { ...of, statusDetails: { step: 'download' } }, of);
      assert.deepEqual([a.execution.jobId, a.execution.status, a.execution.versionNumber, a.execution.statusDetails], [good, 'IN_PROGRESS', 2, { step: 'download' }]);
      assert.ok(a.execution.startedAt);
      const p = await jobs.accepted('getPendingJobExecutions', of, of);
      assert.deepEqual([p.inProgressJobs.map((e) => e.jobId), p.queuedJobs.map((e) => e.jobId)], [[good], [bad]]);
    });
    await step(say('updates on the way'), async () => {
      const a = await jobs.accepted('updateJobExecution', ...one(good, { status: 'IN_PROGRESS', statusDetails: { step: 'install' }, expectedVersion: 2, includeJobExecutionState: true, includeJobDocument: true }));
      assert.deepEqual([a.executionState.status, a.executionState.versionNumber, a.executionState.statusDetails, a.jobDocument.operation], ['IN_PROGRESS', 3, { step: 'install' }, 'update']);
      const no = await jobs.rejected('updateJobExecution', ...one(good, { status: 'IN_PROGRESS', expectedVersion: 2 }));
      assert.deepEqual([no.code, no.executionState.status, no.executionState.versionNumber], ['VersionMismatch', 'IN_PROGRESS', 3]);
      const odd = await jobs.rejected('updateJobExecution', ...one(good, { status: 'NONSENSE' }));
      assert.equal(odd.code, 'InvalidRequest');
    });
    await step(say('the job succeeds, and the next one is announced'), async () => {
      await jobs.accepted('updateJobExecution', ...one(good, { status: 'SUCCEEDED', statusDetails: { result: 'fine' } }));
      const n = await notify.next('notify');
      assert.deepEqual([n.jobs.IN_PROGRESS, n.jobs.QUEUED.map((e) => e.jobId)], [undefined, [bad]]);
      const x = await next.next('notify-next');
      assert.equal(x.execution.jobId, bad);
      const no = await jobs.rejected('updateJobExecution', ...one(good, { status: 'IN_PROGRESS' }));
      assert.deepEqual([no.code, no.executionState.status], ['InvalidStateTransition', 'SUCCEEDED']);
    });
    await step(say('the other job is rejected'), async () => {
      await jobs.accepted('updateJobExecution', ...one(bad, { status: 'REJECTED', statusDetails: { reason: 'unknown operation' } }));
      const n = await notify.next('notify');
      assert.deepEqual(n.jobs, {});
      const x = await next.next('notify-next');
      assert.equal(x.execution, undefined);
      const a = await jobs.accepted('getPendingJobExecutions', of, of);
      assert.deepEqual([a.inProgressJobs, a.queuedJobs], [[], []]);
      assert.deepEqual([notify.length, next.length], [0, 0]);
    });
    jobs.close();
    await device.close();
  });
};
