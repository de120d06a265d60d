'use strict';
// A server for the tests: each path is one behaviour. Usage: node server.js [SETTINGS as JSON]
// It says where it serves, and then what it notices, one JSON object a line.

const http2 = require('node:http2');

const settings = JSON.parse(process.argv[2] || '{}');
const server = http2.createServer({ settings });
const sessions = [];
let held = [];

function say(event, facts = {}) {
  process.stdout.write(JSON.stringify({ event, ...facts }) + '\n');
}

function answer(stream, body, headers = {}) {
  if (stream.destroyed) return;
  stream.respond({ ':status': 200, 'x-session': String(sessions.indexOf(stream.session) + 1), ...headers });
  stream.end(body);
}

function release(count) {
  held.splice(0, count).forEach(({ stream, body }) => answer(stream, body));
}

const routes = {
  '/hello': (stream) => answer(stream, 'hello, world'),

  // The body and the trailers go back to where they came from.
  '/echo': (stream) => {
    let trailers = {};
    stream.on('trailers', (fields) => { trailers = fields; });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-up-again': trailers['x-up'] || '' }));
    stream.respond({ ':status': 200 }, { waitForTrailers: true });
    stream.pipe(stream);
  },

  // Nobody is answered before as many are open as are allowed.
  '/together': (stream, query) => {
    held.push({ stream, body: query.get('n') });
    if (held.length === settings.maxConcurrentStreams) release(held.length);
  },

  // The fourth request makes it send GOAWAY, and answer what is left below `last`; later ones are answered at once.
  '/goaway': (stream, query) => {
    if (sessions.indexOf(stream.session) > 0) return answer(stream, query.get('n'));
    held.push({ stream, body: query.get('n') });
    if (held.length < 4) return undefined;
    stream.session.goaway(Number(query.get('code')), Number(query.get('last')));
    return setImmediate(release, held.length);
  },

  // Three requests are held until `/close` closes their session, which still answers them.
  '/hold': (stream, query) => {
    held.push({ stream, body: query.get('n') });
    say('held', { count: held.length });
  },
  '/close': (stream) => {
    stream.on('close', () => setImmediate(release, held.length));
    answer(stream, 'closing');
    stream.session.close();
  },

  '/reset': (stream, query) => stream.close(Number(query.get('code'))),
  // destroy() resets at once, with INTERNAL_ERROR; close() ends the body first, however short it is.
  '/reset-late': (stream) => {
    stream.respond({ ':status': 200, 'content-length': '10' });
    stream.write('hello', () => stream.destroy(new Error('out of luck')));
  },
  '/short': (stream) => {
    stream.respond({ ':status': 200, 'content-length': '10' });
    stream.write('hello', () => stream.close(http2.constants.NGHTTP2_CANCEL));
  },

  '/early-hints': (stream) => {
    stream.additionalHeaders({ ':status': 103, link: '</style.css>; rel=preload' });
    stream.additionalHeaders({ ':status': 103, link: '</script.js>; rel=preload' });
    answer(stream, 'hello, world');
  },

  '/destroy': (stream, query) => stream.session.destroy(undefined, Number(query.get('code'))),
  '/destroy-late': (stream, query) => {
    stream.respond({ ':status': 200, 'content-length': '10' });
    stream.write('hello', () => stream.session.destroy(undefined, Number(query.get('code'))));
  },
};

server.on('session', (session) => {
  sessions.push(session);
  session.on('error', (error) => say('session error', { code: error.code }));
  session.on('goaway', (code, last, debug) => say('goaway', { code, debug: String(debug || '') }));
});

server.on('stream', (stream, headers) => {
  const url = new URL(headers[':path'], 'http://peer');
  stream.on('error', (error) => say('stream error', { path: url.pathname, code: error.code }));
  stream.on('aborted', () => say('aborted', { path: url.pathname, code: stream.rstCode }));
  routes[url.pathname](stream, url.searchParams);
});

server.listen(0, '127.0.0.1', () => say('listening', { url: `http://127.0.0.1:${server.address().port}` }));
