'use strict';
// Turns net.Socket.prototype.connect into "ask the egress proxy for a tunnel".
//
// A second, private socket speaks to the proxy. Once the proxy has said 200, its handle is moved to the socket that
// the client holds, by the same step with which Node swaps handles between the attempts of Happy Eyeballs. So a
// TLSSocket wraps the tunnel natively, and no byte of the proxy's answer reaches the client.

const net = require('net');
const { errno: ERRNO } = require('os').constants;
const { domainToASCII } = require('url');
const { notFound, tryAgain } = require('./names.js');

const MAX_ANSWER = 16_384;
const HEAD_END = Buffer.from('\r\n\r\n');

const prototype = net.Socket.prototype;
const connectDirectly = prototype.connect;
const swapHandle = Object.getOwnPropertySymbols(prototype).find((s) => s.description === 'kReinitializeHandle');

let socketPath;

function install(path) {
  if (swapHandle === undefined) throw new Error(`Node ${process.version} has no handle swap that tunnels could use`);
  socketPath = path;
  prototype.connect = connect;
}

function connect(...args) {
  const normalized = Array.isArray(args[0]) ? args[0] : net._normalizeArgs(args);
  const [options, onConnect] = normalized;
  // Unix sockets stay within the jail. What Node would not accept, Node explains best.
  if (options.path || !isPort(options.port)) return connectDirectly.apply(this, args);

  if (onConnect !== null) this.once('connect', onConnect);
  // A TLS socket over a socket that is still connecting waits for that one.
  if (this._parent?.connecting) return this;
  if (this.destroyed) this._undestroy();
  this.connecting = true;
  openTunnel(this, hostOf(options), Number(options.port));
  return this;
}

function isPort(port) {
  return (typeof port === 'number' || (typeof port === 'string' && port.trim() !== '')) &&
    Number.isInteger(+port) && +port > 0 && +port <= 65535;
}

function hostOf(options) {
  const host = String(options.host || 'localhost');
  return /^[\x00-\x7f]*$/.test(host) ? host : domainToASCII(host);
}

function openTunnel(socket, host, port) {
  if (!/^[\x21-\x7e]+$/.test(host)) {
    process.nextTick(() => fail(socket, notFound(host)));
    return;
  }
  const carrier = new net.Socket({ allowHalfOpen: true });
  const authority = at(host, port);
  let answer = Buffer.alloc(0);

  function giveUp(error) {
    carrier.destroy();
    fail(socket, error);
  }
  socket.once('close', () => carrier.destroy());

  carrier.on('error', (error) => giveUp(proxyGone(error, host, port)));
  carrier.on('end', () => giveUp(proxyGone(null, host, port)));
  carrier.on('data', (chunk) => {
    answer = answer.length === 0 ? chunk : Buffer.concat([answer, chunk]);
    const end = answer.indexOf(HEAD_END);
    if (end < 0) {
      if (answer.length > MAX_ANSWER) giveUp(proxyGone(null, host, port));
      return;
    }
    const { status, headers } = parseHead(answer.latin1Slice(0, end));
    if (status !== 200) {
      giveUp(errorOf(headers, host, port));
      return;
    }
    carrier.removeAllListeners();
    handOver(carrier, socket, { address: headers['x-egress-address'], port, host }, answer.subarray(end + 4));
  });
  connectDirectly.call(carrier, { path: socketPath });
  carrier.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`);
}

function parseHead(head) {
  const [first, ...lines] = head.split('\r\n');
  const headers = Object.create(null);
  for (const line of lines) {
    const colon = line.indexOf(':');
    if (colon > 0) headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  return { status: Number(first.split(' ')[1]), headers };
}

function handOver(carrier, socket, peer, early) {
  if (socket.destroyed) {
    carrier.destroy();
    return;
  }
  const handle = carrier._handle;
  handle.readStop();
  handle.reading = false;
  carrier._handle = null;
  // The swap resets the stream's state, which would forget an end() that came before the connection.
  socket._undestroy = () => {};
  socket[swapHandle](handle);
  delete socket._undestroy;
  // Node turns these on in the handle when a listener is added, which was the handle before.
  if (socket.listenerCount('session') > 0) socket._handle.enableSessionCallbacks?.();
  if (socket.listenerCount('keylog') > 0) socket._handle.enableKeylogCallback?.();

  socket._host = peer.host;
  socket._peername = { address: peer.address, port: peer.port, family: net.isIPv6(peer.address) ? 'IPv6' : 'IPv4' };

  socket.connecting = false;
  socket._unrefTimer();
  socket.emit('connect');
  socket.emit('ready');
  if (socket.destroyed) return;
  if (early.length > 0) deliver(socket, early);
  if (!socket.isPaused()) socket.read(0);
}

// What the server said in the same breath as the proxy's 200.
function deliver(socket, early) {
  if (typeof socket._handle.receive === 'function') socket._handle.receive(early);
  else socket.push(early);
}

function fail(socket, error) {
  if (socket.destroyed) return;
  socket.connecting = false;
  socket.destroy(error);
}

function errorOf(headers, host, port) {
  const code = headers['x-egress-code'] || 'EGRESS_BAD_REQUEST';
  const reason = headers['x-egress-reason'];
  const where = at(host, port);
  if (code === 'ENOTFOUND') return notFound(host);
  if (code === 'EAI_AGAIN') return tryAgain(host);
  if (code.startsWith('EGRESS_')) {
    const error = new Error(`egress to ${where} ${code === 'EGRESS_REFUSED' ? 'refused' : 'failed'}: ${reason}`);
    return Object.assign(error, { code, hostname: host, port, reason, kind: headers['x-egress-kind'] });
  }
  const address = headers['x-egress-address'] || host;
  const error = new Error(`connect ${code} ${at(address, port)}`);
  return Object.assign(error, { errno: -(ERRNO[code] ?? 0), code, syscall: 'connect', address, port });
}

function at(host, port) {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

function proxyGone(cause, host, port) {
  const error = new Error(`connect ECONNRESET ${at(host, port)}: the egress proxy closed the connection`, { cause });
  return Object.assign(error, { errno: -ERRNO.ECONNRESET, code: 'ECONNRESET', syscall: 'connect', port });
}

module.exports = { install };
