// A producer as in benchmarks/producer.py.
const { performance } = require('node:perf_hooks');
const { setTimeout: sleep } = require('node:timers/promises');
const { Queue } = require('bullmq');

const BULK = 500;
const url = new URL(process.env.BENCH_REDIS);
const queue = new Queue('bench', { connection: { host: url.hostname, port: Number(url.port) } });
const body = 'x'.repeat(Number(process.env.BENCH_BODY || '200'));
let number = 0;

const payload = () => ({ number: number++, sent: (performance.timeOrigin + performance.now()) / 1000, body });

const verbs = {
  async prepare() {
    await queue.waitUntilReady();
  },
  async one({ count }) {
    for (let i = 0; i < count; i++) await queue.add('job', payload());
  },
  async many({ count }) {
    for (let left = count; left > 0; left -= BULK) {
      await queue.addBulk(Array.from({ length: Math.min(BULK, left) }, () => ({ name: 'job', data: payload() })));
    }
  },
  async paced({ count, pause }) {
    for (let i = 0; i < count; i++) {
      await queue.add('job', payload());
      await sleep(pause * 1000 * (0.5 + Math.random()));
    }
  },
};

async function serve(line) {
  const request = JSON.parse(line);
  const started = performance.now();
  await verbs[request.verb](request);
  process.stdout.write(`${JSON.stringify({ seconds: (performance.now() - started) / 1000, value: null })}\n`);
}

let turn = Promise.resolve();
require('node:readline').createInterface({ input: process.stdin })
  .on('line', (line) => { turn = turn.then(() => serve(line)); })
  .on('close', () => { turn.then(() => process.exit(0)); });
