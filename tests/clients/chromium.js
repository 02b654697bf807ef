// Debian's Chromium, or the program that CHROMIUM names, headless and without requests of its own; and what any page
// can be checked for.

'use strict';

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const { chromium } = require('playwright-core');

const QUIET = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

function launch() {
  // The driver needs a path, not a name.
  const find = ['-c', 'command -v "$0"', process.env.CHROMIUM || 'chromium'];
  const executablePath = execFileSync('sh', find, { encoding: 'utf8' }).trim();
  return chromium.launch({ executablePath, args: QUIET });
}

/** What axe-core finds wrong with the page for people who can't see it well, or use no mouse. */
async function findings(page) {
  await page.evaluate(fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8'));
  const { violations } = await page.evaluate(() => window.axe.run({ resultTypes: ['violations'] }));
  const describe = ({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html}: ${failureSummary}`);
  return violations.flatMap(describe);
}

/** Whether the page has to be scrolled sideways. */
const isTooWide = (page) => page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);

module.exports = { findings, isTooWide, launch };
