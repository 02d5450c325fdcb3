// A WebSocket server that sends back what it gets.
//
// Of the subprotocols that a client offers it takes `chat.v2`. The text `close CODE REASON` makes it close so; `ping` makes it
// send a ping and tell when the pong came; `fields` makes it tell the fields of the handshake. A client's close is printed.
'use strict';
const http = require('node:http');
const { WebSocketServer } = require('ws');

const server = http.createServer();
const sockets = new WebSocketServer({
  server,
  maxPayload: 64 << 20,
  perMessageDeflate: { threshold: 0 },
  handleProtocols: (offered) => (offered.has('chat.v2') ? 'chat.v2' : false),
});
sockets.on('connection', (socket, request) => {
  socket.on('message', (data, isBinary) => {
    const text = isBinary ? '' : data.toString();
    const [word, code, ...reason] = text.split(' ');
    if (word === 'close') {
      socket.close(Number(code), reason.join(' '));
    } else if (text === 'ping') {
      socket.once('pong', (proof) => socket.send(`pong ${proof}`));
      socket.ping('are you there');
    } else if (text === 'fields') {
      socket.send(JSON.stringify(request.headers));
    } else {
      socket.send(data, { binary: isBinary });
    }
  });
  socket.on('close', (code, reason) => console.log(`closed ${code} ${reason}`));
});
server.listen(0, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
