// Two Socket.IO clients in one room: `chat_clients.js URL TRANSPORT...`. Ends well if each hears the other,
// at first over the first transport, in the end over the last one.
'use strict';
const assert = require('node:assert/strict');
const { once } = require('node:events');
const { io } = require('socket.io-client');

const [url, ...transports] = process.argv.slice(2);
const upgrades = transports[0] === 'polling' && transports.includes('websocket');

async function entered() {
  const socket = io(url, { transports, reconnection: false, forceNew: true });
  const heard = [];
  socket.on('chat message', (text) => heard.push(text));
  // The upgrade may follow the connection at once: whoever waits for it must listen before.
  const opened = once(socket, 'connect');
  const trouble = once(socket, 'connect_error').then(([problem]) => Promise.reject(problem));
  trouble.catch(() => {});
  const changed = new Promise((resolve) => socket.io.engine.once('upgrade', resolve));
  const first = socket.io.engine.transport.name;
  await Promise.race([opened, trouble]);
  assert.equal(first, transports[0], 'the transport at first');
  return { socket, heard, changed };
}

async function hears(client, text) {
  while (!client.heard.includes(text)) await once(client.socket, 'chat message');
}

async function talk(one, other, text) {
  one.socket.emit('chat message', text);
  await Promise.all([hears(one, text), hears(other, text)]);
}

async function main() {
  const ann = await entered();
  const bob = await entered();
  await talk(ann, bob, 'Hello Bob');
  await talk(bob, ann, 'Hello Ann');
  if (upgrades) await Promise.all([ann.changed, bob.changed]);
  for (const { socket } of [ann, bob]) {
    assert.equal(socket.io.engine.transport.name, transports.at(-1), 'the transport in the end');
  }
  for (let number = 0; number < 20; number += 1) {
    await talk(ann, bob, `question ${number} ${'?'.repeat(5000)}`);
    await talk(bob, ann, `answer ${number}`);
  }
  assert.equal(ann.heard.length, 42);
  assert.deepEqual(ann.heard, bob.heard, 'both hear the same, in the same order');
  for (const { socket } of [ann, bob]) socket.close();
}

main().then(
  () => process.exit(0),
  (problem) => {
    console.error(problem);
    process.exit(1);
  },
);
