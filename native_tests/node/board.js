'use strict';
// bull-board's server on a port of the system's choice, over one queue.
const { createBullBoard } = require('@bull-board/api');
const { BullAdapter } = require('@bull-board/api/bullAdapter');
const { ExpressAdapter } = require('@bull-board/express');
const express = require('express');
const { obey, queue, say } = require('./program');

const adapter = new ExpressAdapter();
adapter.setBasePath('/');
createBullBoard({ queues: [new BullAdapter(queue())], serverAdapter: adapter });

const server = express()
  .use('/', adapter.getRouter())
  .listen(0, '127.0.0.1', () => say({ ready: true, port: server.address().port }));

obey(() => null);
