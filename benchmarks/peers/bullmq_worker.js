// A BullMQ worker, 100 jobs at a time; each writes one record of benchmarks/ledger.py.
const fs = require('node:fs');
const { performance } = require('node:perf_hooks');
const { Worker } = require('bullmq');

const url = new URL(process.env.BENCH_REDIS);
const ledger = fs.openSync(process.env.BENCH_LEDGER, 'a');

const worker = new Worker('bench', async (job) => {
  const record = Buffer.alloc(24);
  record.writeBigInt64LE(BigInt(job.data.number), 0);
  record.writeDoubleLE(job.data.sent, 8);
  record.writeDoubleLE((performance.timeOrigin + performance.now()) / 1000, 16);
  fs.writeSync(ledger, record);
}, { connection: { host: url.hostname, port: Number(url.port) }, concurrency: 100 });
process.on('SIGTERM', () => worker.close().then(() => process.exit(0)));
