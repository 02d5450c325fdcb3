// One conversation with ws_server.js: `ws_client.js URL CONVERSATION`. Ends well if all was as it should be.
'use strict';
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { once } = require('node:events');
const WebSocket = require('ws');

const [url, conversation] = process.argv.slice(2);

async function opened(protocols = [], options = {}) {
  const socket = new WebSocket(url, protocols, { maxPayload: 64 << 20, ...options });
  await once(socket, 'open');
  return socket;
}

async function answer(socket, message) {
  socket.send(message);
  const [data, isBinary] = await once(socket, 'message');
  return isBinary ? data : data.toString();
}

async function closed(socket) {
  const [code, reason] = await once(socket, 'close');
  return [code, reason.toString()];
}

const conversations = {
  async text() {
    const socket = await opened();
    for (const message of ['', 'hello', 'Grüße, 世界 🌍', 'x'.repeat(70000)]) {
      assert.equal(await answer(socket, message), message);
    }
    socket.close();
    await closed(socket);
  },

  async binary() {
    const socket = await opened([], { perMessageDeflate: false });
    for (const bytes of [0, 1, 125, 126, 65535, 65536, 8 << 20]) {
      const message = crypto.randomBytes(bytes);
      assert.ok(message.equals(await answer(socket, message)), `the ${bytes} bytes that came back are others`);
    }
    socket.close();
    await closed(socket);
  },

  async compressed() {
    const socket = await opened();
    assert.match(socket.extensions, /^permessage-deflate/, 'the extension was not agreed on');
    const message = 'again and '.repeat(400000);
    assert.equal(await answer(socket, message), message);
    const sent = socket._socket.bytesWritten;
    assert.ok(sent < message.length / 10, `${sent} bytes were sent for a message of ${message.length}: not compressed`);
    socket.close();
    await closed(socket);
  },

  async pings() {
    const socket = await opened();
    socket.ping('proof');
    const [proof] = await once(socket, 'pong');
    assert.equal(proof.toString(), 'proof', 'the pong to our ping');
    assert.equal(await answer(socket, 'ping'), 'pong are you there', "the pong to the server's ping");
    socket.close();
    await closed(socket);
  },

  async serverCloses() {
    const socket = await opened();
    socket.send('close 4001 enough for today');
    assert.deepEqual(await closed(socket), [4001, 'enough for today']);
  },

  async clientCloses() {
    const socket = await opened();
    socket.close(4002, 'bye');
    assert.deepEqual(await closed(socket), [4002, 'bye']);
  },

  async subprotocol() {
    const socket = await opened(['chat.v1', 'chat.v2']);
    assert.equal(socket.protocol, 'chat.v2');
    socket.close();
    await closed(socket);
  },

  async fields() {
    const socket = await opened([], { origin: 'http://example.com', headers: { cookie: 'a=1', 'x-real-ip': '203.0.113.9' } });
    const seen = JSON.parse(await answer(socket, 'fields'));
    assert.equal(seen.origin, 'http://example.com');
    assert.equal(seen.cookie, 'a=1');
    assert.equal(seen.host, new URL(url).host);
    assert.equal(seen['x-real-ip'], '127.0.0.1');
    assert.equal(seen['x-forwarded-for'], '127.0.0.1');
    assert.equal(seen['x-forwarded-proto'], 'http');
    socket.close();
    await closed(socket);
  },

  async manyAtOnce() {
    const sockets = await Promise.all(Array.from({ length: 200 }, () => opened()));
    for (let round = 0; round < 5; round += 1) {
      const answers = await Promise.all(sockets.map((socket, number) => answer(socket, `${round} of ${number}`)));
      answers.forEach((text, number) => assert.equal(text, `${round} of ${number}`));
    }
    sockets.forEach((socket) => socket.close());
    await Promise.all(sockets.map(closed));
  },
};

conversations[conversation]().catch((problem) => {
  console.error(problem);
  process.exit(1);
});
