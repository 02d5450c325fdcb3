// An origin that tells what it got: `origin.js FILE`.
//
// GET /file answers FILE; every other request is answered with JSON: method, target, fields, and the length and SHA-256 of the
// body as it arrived here. GET /last tells what the last request but this one was, for those who saw no body (HEAD).
'use strict';
const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');

const file = process.argv[2];
let last = null;

const server = http.createServer((request, response) => {
  if (request.url === '/file') {
    response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': fs.statSync(file).size });
    if (request.method === 'HEAD') response.end();
    else fs.createReadStream(file).pipe(response);
    last = { method: request.method, target: request.url };
    return;
  }
  const hash = crypto.createHash('sha256');
  let bytes = 0;
  request.on('data', (data) => {
    hash.update(data);
    bytes += data.length;
  });
  request.on('end', () => {
    const seen = { method: request.method, target: request.url, fields: request.headers, bytes, sha256: hash.digest('hex') };
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(request.url === '/last' ? last : seen));
    last = seen;
  });
});
server.listen(0, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
