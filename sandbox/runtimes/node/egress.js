'use strict';
// Makes HTTP clients work in a jail that has no network: every TCP connection becomes a CONNECT through the unix
// socket of the egress proxy. Clients are unchanged, TLS is end to end, and names are resolved outside.
//
// This is comfort, not protection: a script that undoes it has no network at all.
//
// Nothing costly is loaded here. `net` and `dns` are patched when something first requires what needs them, or
// calls fetch. An ES module that imports a built-in is not noticed; scripts have no import().

const Module = require('module');

const CONNECTING = new Set(['net', 'tls', 'http', 'https', 'http2']);
const NAMING = new Set(['dns', 'dns/promises']);

let socketPath = null;
const patched = { connections: false, names: false };

/**
 * Routes all connections through the egress proxy that listens at `options.socket`. Call it once, before user code.
 */
function install({ socket }) {
  socketPath = socket;

  const load = Module._load;
  Module._load = function (request, parent, isMain) {
    prepareFor(request);
    return load.call(this, request, parent, isMain);
  };

  const nativeFetch = globalThis.fetch;
  function fetch(input, init = undefined) {
    patchConnections();
    return nativeFetch.apply(this, arguments).catch(rethrowRefusal);
  }
  Object.defineProperty(globalThis, 'fetch', { value: fetch, writable: true, enumerable: true, configurable: true });
}

function prepareFor(request) {
  const id = typeof request === 'string' && request.startsWith('node:') ? request.slice(5) : request;
  if (CONNECTING.has(id)) patchConnections();
  if (NAMING.has(id)) patchNames();
}

function patchConnections() {
  if (patched.connections) return;
  patched.connections = true; // first, since the tunnel loads net itself
  require('./tunnel.js').install(socketPath);
}

function patchNames() {
  if (patched.names) return;
  patched.names = true; // first, for the same reason
  require('./names.js').install();
}

// fetch says "fetch failed" whatever happened. The reason of a refusal is for the author of the script.
function rethrowRefusal(error) {
  const cause = error?.cause;
  if (cause?.code === 'EGRESS_REFUSED' && error.message === 'fetch failed') {
    error.message = `fetch failed: ${cause.message}`;
    error.stack = String(error.stack).replace('fetch failed', () => error.message);
  }
  throw error;
}

module.exports = { install };
