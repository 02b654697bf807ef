// Starts Debian's Chromium, or the program that CHROMIUM names, headless and without requests of its own.

'use strict';

const { execFileSync } = require('node:child_process');
const { chromium } = require('playwright-core');

const QUIET = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

function launch() {
  // The driver needs a path, not a name.
  const find = ['-c', 'command -v "$0"', process.env.CHROMIUM || 'chromium'];
  const executablePath = execFileSync('sh', find, { encoding: 'utf8' }).trim();
  return chromium.launch({ executablePath, args: QUIET });
}

module.exports = { launch };
