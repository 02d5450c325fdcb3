// A server of server-sent events whose next event is made only when it is asked for.
//
// GET /events opens a stream; POST /events sends its body as the next event of every open stream. So an event that somebody
// collects on its way is never followed by another, and a test that waits for it cannot pass by luck.
'use strict';
const http = require('node:http');

const streams = new Set();

const server = http.createServer((request, response) => {
  if (request.method === 'GET') {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
    response.write('retry: 1000\n\n');
    streams.add(response);
    response.on('close', () => {
      streams.delete(response);
      console.log(`stream closed, ${streams.size} open`);
    });
    return;
  }
  let event = '';
  request.on('data', (data) => {
    event += data;
  });
  request.on('end', () => {
    for (const stream of streams) stream.write(`data: ${event}\n\n`);
    response.end(`sent to ${streams.size}\n`);
  });
});
server.listen(0, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
