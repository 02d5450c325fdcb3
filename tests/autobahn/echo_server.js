// A WebSocket server that sends back what it gets, and lives on when a client breaks the protocol.
'use strict';
// ws hands each compressed frame to a thread and waits for it; more threads than one only get in its way.
process.env.UV_THREADPOOL_SIZE = '1';
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  // Also what is shorter than 1 KiB goes back compressed.
  // How well it is compressed is all the same, and the usual level takes up to five times as long.
  perMessageDeflate: { threshold: 0, zlibDeflateOptions: { level: 1 } },
  // The suite sends 4 MB in fragments of 64 bytes, more than ws takes without being told.
  maxPayload: 64 << 20,
  maxFragments: 1 << 20,
  maxBufferedChunks: 1 << 24,
});
server.on('connection', (socket) => {
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  // ws answers with the close code that the violation asks for; that is all there is to do.
  socket.on('error', () => {});
});
server.on('listening', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
