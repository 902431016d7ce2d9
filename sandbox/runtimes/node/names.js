'use strict';
// dns.lookup for a jail: names are resolved outside only, so in here none has an address. Literals still are
// what they are. Clients do not need it, since their connections go to the egress proxy by name.

const UV_EAI_AGAIN = -3001;
const UV_ENOTFOUND = -3008;

function install() {
  const dns = require('dns');
  dns.lookup = lookup;
  dns.promises.lookup = lookupPromise;
  lookup[Symbol.for('nodejs.util.promisify.custom')] = lookupPromise;
}

function notFound(hostname) {
  return lookupError('ENOTFOUND', UV_ENOTFOUND, hostname);
}

function tryAgain(hostname) {
  return lookupError('EAI_AGAIN', UV_EAI_AGAIN, hostname);
}

function lookupError(code, errno, hostname) {
  return Object.assign(new Error(`getaddrinfo ${code} ${hostname}`), { errno, code, syscall: 'getaddrinfo', hostname });
}

function lookup(hostname, options, callback) {
  const done = typeof options === 'function' ? options : callback;
  if (typeof done !== 'function') throw new TypeError('The "callback" argument must be of type function');
  lookupPromise(hostname, typeof options === 'function' ? {} : options).then(
    (found) => (Array.isArray(found) ? done(null, found) : done(null, found.address, found.family)),
    done,
  );
}

async function lookupPromise(hostname, options) {
  const family = require('net').isIP(String(hostname));
  if (family === 0) throw notFound(hostname);
  const found = { address: hostname, family };
  return options?.all ? [found] : found;
}

module.exports = { install, notFound, tryAgain };
