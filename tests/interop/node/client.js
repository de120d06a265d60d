'use strict';
// A client for the tests: one connection with Node's defaults, and one job. Usage: node client.js URL JOB [NUMBER]
// At its end it writes one JSON object: what the job returned, and the GOAWAY frames and errors of its session.

const crypto = require('node:crypto');
const http2 = require('node:http2');

const [url, job, number] = process.argv.slice(2);
const session = http2.connect(url);
const report = { goaways: [], errors: [] };
session.on('goaway', (code, last, debug) => report.goaways.push([code, String(debug || '')]));
session.on('error', (error) => report.errors.push(error.code));

// One request from its head to its last byte; bodies are counted and digested, and kept where they are short.
function exchange(headers, { body = [], trailers } = {}) {
  return new Promise((resolve) => {
    const reply = { status: 0, length: 0, text: '', trailers: {}, error: null };
    const digest = crypto.createHash('sha256');
    const stream = session.request(headers, { endStream: false, waitForTrailers: Boolean(trailers) });
    stream.on('wantTrailers', () => stream.sendTrailers(trailers));
    stream.on('response', (fields) => { reply.status = fields[':status']; });
    stream.on('trailers', (fields) => { reply.trailers = { ...fields }; });
    stream.on('data', (chunk) => {
      reply.length += chunk.length;
      digest.update(chunk);
      if (reply.length < 1000) reply.text += chunk;
    });
    stream.on('error', (error) => { reply.error = `${error.code}: ${error.message}`; });
    stream.on('close', () => resolve({ ...reply, digest: digest.digest('hex') }));
    (async () => {
      for (const block of body) {
        if (!stream.write(block)) await new Promise((room) => stream.once('drain', room));
      }
      stream.end();
    })();
  });
}

function* blocks(count) {
  for (let number = 0; number < count; number += 1) yield Buffer.alloc(1 << 20, number);
}

const jobs = {
  // So many requests, 100 at a time: how often each outcome came.
  async many(count) {
    const outcomes = {};
    let next = 0;
    async function worker() {
      while (next < count) {
        const path = `/${next}`;
        next += 1;
        const reply = await exchange({ ':path': path });
        const outcome = reply.error || `${reply.status} ${reply.text === path}`;
        outcomes[outcome] = (outcomes[outcome] || 0) + 1;
      }
    }
    await Promise.all(Array.from({ length: Math.min(100, count) }, worker));
    return outcomes;
  },

  async upload(megabytes) {
    const sent = crypto.createHash('sha256');
    for (const block of blocks(megabytes)) sent.update(block);
    const reply = await exchange({ ':method': 'POST', ':path': '/' }, { body: blocks(megabytes) });
    return { ...reply, sent: sent.digest('hex') };
  },

  download: () => exchange({ ':path': '/' }),

  trailers: () => exchange({ ':method': 'POST', ':path': '/' }, { body: ['node'], trailers: { 'x-up': 'down' } }),

  // Gives a download up once some of it has come; the connection then serves another request.
  async cancel() {
    const code = await new Promise((resolve) => {
      const stream = session.request({ ':path': '/for-ever' });
      stream.once('data', () => stream.close(http2.constants.NGHTTP2_CANCEL));
      stream.on('close', () => resolve(stream.rstCode));
      stream.resume();
    });
    return { code, after: await exchange({ ':path': '/after' }) };
  },

  ping: () => new Promise((resolve) => {
    session.once('connect', () => session.ping(Buffer.from('muxlink!'), (error, duration, payload) => {
      resolve({ error: error && error.code, payload: String(payload) });
    }));
  }),
};

jobs[job](Number(number)).then((result) => {
  session.on('close', () => process.stdout.write(JSON.stringify({ ...report, result })));
  session.close();
});
