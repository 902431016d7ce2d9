'use strict';
// The three descriptors to the platform. 3: frames in (job, replies). 4: frames out (result, artifacts,
// SDK calls). 5: log records out. Writes are synchronous, so that what was written survives any death, and
// so that a result can never overtake the log lines that came before it.
//
// Frame: u32 body length | u8 type | u32 header length | header (JSON) | data.    All numbers big-endian.
// Log record: level | epoch milliseconds, 13 digits | NUL | text (UTF-8) | NUL. A text that has a NUL itself is sent as
// a JSON string, with the level in lower case.
// sandbox/protocol.py is the other side.

const fs = require('node:fs');

const { readSync, writeSync } = fs;
const { parse, stringify } = JSON;
const { wait } = Atomics;
const bufferFrom = Buffer.from;
const allocUnsafe = Buffer.allocUnsafe;
const concat = Buffer.concat;
const pause = new Int32Array(new SharedArrayBuffer(4));

const JOB_FD = 3;
const CONTROL_FD = 4;
const LOG_FD = 5;
const LOG_RECORD_BYTES = 256 * 1024;
const LAST_PIECE_BYTES = LOG_RECORD_BYTES - 4;
const HEAD_BYTES = 15;
const ZERO = 0x30;
const TO_LOWER_CASE = 0x20;
const NOTHING = Buffer.alloc(0);

let muted = false;

/** While muted nothing is written; for the bootstrap's rehearsal. */
function mute(on) {
  muted = on;
}

function writeAll(fd, buffer) {
  let offset = muted ? buffer.length : 0;
  while (offset < buffer.length) {
    try {
      offset += writeSync(fd, buffer, offset, buffer.length - offset);
    } catch (error) {
      // Only a script that reopened the descriptor as a stream makes it non-blocking.
      if (error.code !== 'EAGAIN') throw error;
      wait(pause, 0, 0, 1);
    }
  }
}

/** Send one frame. `header` should have no prototype, so that a script's toJSON can't reach it. */
function send(type, header, data = NOTHING) {
  const head = bufferFrom(stringify(header), 'utf8');
  const start = allocUnsafe(9);
  start.writeUInt32BE(5 + head.length + data.length, 0);
  start.writeUInt8(type.charCodeAt(0), 4);
  start.writeUInt32BE(head.length, 5);
  writeAll(CONTROL_FD, concat([start, head, data]));
}

function sendRecord(level, time, bytes, from, to) {
  const nul = bytes.indexOf(0, from);
  if (nul >= 0 && nul < to) {
    const quoted = bufferFrom(stringify(bytes.toString('utf8', from, to)), 'utf8');
    writeRecord(level.charCodeAt(0) + TO_LOWER_CASE, time, quoted, 0, quoted.length);
  } else {
    writeRecord(level.charCodeAt(0), time, bytes, from, to);
  }
}

function writeRecord(level, time, bytes, from, to) {
  const end = HEAD_BYTES + to - from;
  const record = allocUnsafe(end + 1);
  const digits = `${time}`;
  record.fill(ZERO, 1, HEAD_BYTES - 1);
  record[0] = level;
  record.latin1Write(digits, HEAD_BYTES - 1 - digits.length);
  record[HEAD_BYTES - 1] = 0;
  bytes.copy(record, HEAD_BYTES, from, to);
  record[end] = 0;
  writeAll(LOG_FD, record);
}

/**
 * Write all pieces of a long line but its last one, cut between characters; returns where that one begins.
 * By their size sandbox/output.py knows that the line goes on.
 */
function sendPieces(level, time, bytes) {
  let from = 0;
  while (bytes.length - from > LAST_PIECE_BYTES) {
    let to = from + LOG_RECORD_BYTES;
    if (to >= bytes.length) to = bytes.length;
    else while ((bytes[to] & 0xc0) === 0x80) to -= 1;
    sendRecord(level, time, bytes, from, to);
    from = to;
  }
  return from;
}

/** Write one log line; a very long one becomes several records. */
function sendLog(level, time, text) {
  const bytes = bufferFrom(text, 'utf8');
  sendRecord(level, time, bytes, sendPieces(level, time, bytes), bytes.length);
}

function decode(body) {
  const dataStart = 5 + body.readUInt32BE(1);
  return [String.fromCharCode(body[0]), parse(body.toString('utf8', 5, dataStart)), body.subarray(dataStart)];
}

function readExactly(size) {
  const buffer = allocUnsafe(size);
  for (let at = 0; at < size; ) {
    const got = readSync(JOB_FD, buffer, at, size - at, null);
    if (got === 0) process.reallyExit(0);
    at += got;
  }
  return buffer;
}

/** Block until the platform sends a frame. Only before `hold` was called; costs far less than a first event. */
function waitForFrame() {
  return decode(readExactly(readExactly(4).readUInt32BE(0)));
}

/** For good: the platform is about to end this process, and nothing that it would still do is of use. */
function rest() {
  wait(pause, 0, 0);
}

let ear = null;

/** Keep the process alive to hear the platform; `onFrame(type, header, data)` is called for each frame. */
function hold(onFrame) {
  if (ear === null) {
    const { Socket } = require('node:net'); // here, since a jail of one run needs none
    ear = new Socket({ fd: JOB_FD, readable: true, writable: false });
    listen(ear, onFrame);
  }
  ear.ref();
}

/** Let the process end when nothing but the platform is left to wait for. */
function letGo() {
  if (ear !== null) ear.unref();
}

function listen(socket, onFrame) {
  let chunks = [];
  let size = 0;
  socket.on('data', (chunk) => {
    chunks.push(chunk);
    size += chunk.length;
    while (size >= 4) {
      if (chunks[0].length < 4) chunks = [concat(chunks, size)];
      const length = chunks[0].readUInt32BE(0);
      if (size < 4 + length) return;
      const all = chunks.length === 1 ? chunks[0] : concat(chunks, size);
      const rest = all.subarray(4 + length);
      chunks = rest.length ? [rest] : [];
      size = rest.length;
      onFrame(...decode(all.subarray(4, 4 + length)));
    }
  });
}

module.exports = { send, sendLog, sendPieces, waitForFrame, hold, letGo, rest, mute };
