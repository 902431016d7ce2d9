'use strict';
// console.* and process.stdout/stderr become log records. One Console of Node's does the formatting, so that
// groups, tables, counters, timers and util.format behave as everywhere; only levels and the sink are ours.

const { Console } = require('node:console');
const { format, inspect } = require('node:util');
const channel = require('./channel.js');

const now = Date.now;
const byteLength = Buffer.byteLength;
const bufferFrom = Buffer.from;
const RECORD_BYTES = 33; // As in sandbox/output.py, which also counts line breaks and has the last word.
const PARTIAL_CHARS = 256 * 1024;

// The letters are sandbox/protocol.py's.
const LEVELS = {
  log: 'I', info: 'I', dir: 'I', dirxml: 'I', table: 'I', group: 'I', groupCollapsed: 'I', groupEnd: 'I',
  count: 'I', countReset: 'W', time: 'W', timeLog: 'I', timeEnd: 'I', profile: 'D', profileEnd: 'D', timeStamp: 'D',
  debug: 'D', trace: 'D', warn: 'W', error: 'E', assert: 'E',
};

// What the current run may still write; null between runs, when lines belong to nobody and are dropped.
let budget = null;

function open(bytes) {
  budget = { left: bytes, dropped: 0 };
}

/** Ends the current run's log; returns how many bytes were not written because the limit was reached. */
function close() {
  const dropped = budget ? budget.dropped : 0;
  budget = null;
  return dropped;
}

function line(level, text) {
  if (budget === null) return;
  if (budget.left <= 0) {
    budget.dropped += text.length;
    return;
  }
  budget.left -= byteLength(text) + RECORD_BYTES;
  channel.sendLog(level, now(), text);
}

/** Writes the front of a line that goes on; returns the rest. */
function pieces(level, text) {
  if (budget === null) return '';
  if (budget.left <= 0) {
    budget.dropped += text.length;
    return '';
  }
  const bytes = bufferFrom(text, 'utf8');
  const sent = channel.sendPieces(level, now(), bytes);
  budget.left -= sent;
  return bytes.toString('utf8', sent);
}

function makeConsole() {
  let level = 'I';
  const sink = { write: (text) => line(level, text.endsWith('\n') ? text.slice(0, -1) : text) };
  const inner = new Console({ stdout: sink, stderr: sink, ignoreErrors: false, colorMode: false });
  const outer = globalThis.console;
  for (const [method, letter] of Object.entries(LEVELS)) {
    const write = inner[method];
    outer[method] = (...args) => {
      level = letter;
      write(...args);
    };
  }
  // Console's own stack would start inside this file.
  outer.trace = function trace(...args) {
    const error = new Error(format(...args));
    error.name = 'Trace';
    Error.captureStackTrace(error, trace);
    line('D', error.stack);
  };
  outer.Console = Console;
}

function makeStream(level) {
  const { Writable } = require('node:stream');
  const { StringDecoder } = require('node:string_decoder');
  const decoder = new StringDecoder('utf8');
  let partial = '';
  const stream = new Writable({
    decodeStrings: true,
    write(chunk, _encoding, done) {
      const rows = decoder.write(chunk).split('\n');
      rows[0] = partial + rows[0];
      partial = rows.pop();
      for (const row of rows) line(level, row);
      // A writer that never breaks its line must not fill the heap.
      if (partial.length >= PARTIAL_CHARS) partial = pieces(level, partial);
      done();
    },
  });
  stream.flushPartial = () => {
    if (partial) line(level, partial);
    partial = '';
  };
  stream.isTTY = false;
  return stream;
}

/**
 * Replace process[name] by one that is made when it is first used: few scripts do, and it costs more than the rest of
 * this. Returns a function that gives it once it is made.
 */
function standardStream(name, level) {
  const { defineProperty } = Object;
  let stream;
  const property = { configurable: true, enumerable: true };
  defineProperty(process, name, {
    ...property,
    get: () => (stream ??= makeStream(level)),
    set: (value) => defineProperty(process, name, { ...property, value, writable: true }),
  });
  return () => stream;
}

/** Replace console, process.stdout and process.stderr. Returns {open, line, close}: the log of one run. */
function install() {
  // Half of a secret is not known as one: it is masked outside, and cut after that.
  inspect.defaultOptions = { maxStringLength: Infinity };
  makeConsole();
  const streams = [standardStream('stdout', 'O'), standardStream('stderr', 'R')];
  return {
    open,
    line,
    close() {
      for (const made of streams) made()?.flushPartial();
      return close();
    },
  };
}

module.exports = { install };
