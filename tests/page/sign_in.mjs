// Checks the form for a token, and what each role sees, on a running daemon with access control and
// the cameras `drive` and `gate`.
//
//   node sign_in.mjs ADDRESS TOKENS
//
// TOKENS is an object in JSON: a token of each role, one of the role admin that sees only `gate`,
// and one that is revoked on the way.

import { DESKTOP, PHONE, aboutWindow, accessible, act, assert, check, close, fits, main, open, plays, signIn, until } from './harness.mjs';

const base = process.argv[2];
const tokens = JSON.parse(process.argv[3]);

/** What the browser writes to the console about requests that the daemon refuses. */
const REFUSED = /status of (401|429)/;

/** Opens the page at a view, and signs in. */
async function openAs(browser, token, view, options = {}) {
  const page = await open(browser, base, view, { expected: REFUSED, ...options });
  await signIn(page, tokens[token]);
  await page.locator('#account-button').waitFor();
  return page;
}

/** Returns the titles of the navigation. */
function navigation(page) {
  return page.locator('#nav a span').allTextContents();
}

/** Reads a value of the API with the page's own cookie. */
function read(page, path) {
  return page.evaluate((path) => fetch(path).then((reply) => reply.json()), `api/v1/${path}`);
}

main(async (browser) => {
  await check('a wrong token is named, and the address is kept', async () => {
    const page = await open(browser, base, 'timeline?camera=gate&last=1h', { expected: REFUSED });
    await signIn(page, 'lookout_wrong');
    await page.getByText('The token is not valid: unknown, expired or revoked.').waitFor();
    assert((await page.locator('#nav a').count()) === 0, 'the navigation is shown to a stranger');
    assert(page.url().endsWith('#/timeline?camera=gate&last=1h'), page.url());
    await accessible(page);
    await signIn(page, tokens.view);
    await page.locator('.timeline-list h2').waitFor();
    assert(page.url().endsWith('#/timeline?camera=gate&last=1h'), page.url());
    const cookies = await page.context().cookies();
    const [session] = cookies.filter((cookie) => cookie.name === 'lookout_session');
    assert(session.httpOnly && session.sameSite === 'Strict', JSON.stringify({ ...session, value: '' }));
    await close(page);
  });

  for (const [size, viewport] of [['desktop', DESKTOP], ['phone', PHONE]]) {
    for (const colorScheme of ['light', 'dark']) {
      await check(`the form and the account fit and are accessible: ${size}, ${colorScheme}`, async () => {
        const page = await open(browser, base, 'live', { viewport, colorScheme, expected: REFUSED });
        await page.getByLabel('Token', { exact: true }).waitFor();
        await fits(page);
        await accessible(page);
        await signIn(page, tokens.gate);
        await page.locator('#account-button').click();
        await page.getByRole('dialog').getByText('gate', { exact: true }).waitFor();
        await fits(page);
        await accessible(page);
        await close(page);
      });
    }
  }

  await check('the role view sees everything and changes nothing', async () => {
    const page = await openAs(browser, 'view', 'live');
    await page.locator('.tile[data-camera="gate"][data-event] .tile-text').waitFor();
    await page.locator('.tile[data-camera="drive"][data-event] .tile-text').waitFor();
    const titles = await navigation(page);
    assert(!titles.includes('Ask') && !titles.includes('Cameras'), `the navigation has ${titles}`);
    assert((await page.getByRole('link', { name: 'Ask about gate' }).count()) === 0, 'a tile has the link to a question');
    const event = await page.locator('.tile[data-camera="gate"]').getAttribute('data-event');
    await page.goto(`${base}#/event?id=${event}`);
    await page.getByText('What the model saw').waitFor();
    for (const name of ['Keep', 'Kept', 'Ask about this']) {
      assert((await page.getByText(name, { exact: true }).count()) === 0, `the event has the control ${name}`);
    }
    await page.goto(`${base}#/alerts`);
    await page.getByText('No rule is configured.').waitFor();
    assert((await page.getByRole('link', { name: /^Try/ }).count()) === 0, 'the alerts have the link to a trial');
    for (const view of ['ask', 'trial']) {
      await page.goto(`${base}#/${view}`);
      await page.getByText('The token anna has the role view.').waitFor();
    }
    await page.goto(`${base}#/status`);
    await page.getByText('Journal and search').waitFor();
    await close(page);
  });

  await check('captions, frames and live video arrive with the cookie', async () => {
    const page = await openAs(browser, 'view', 'live');
    const tile = page.locator('.tile[data-camera="drive"]');
    await until('a frame', () => tile.locator('.tile-picture img').evaluate((image) => !image.hidden && image.naturalWidth > 0));
    const first = await tile.getAttribute('data-event');
    await until('the next caption', async () => (await tile.getAttribute('data-event')) !== first);
    await page.locator('.tile[data-camera="drive"].is-playing').waitFor();
    await plays(tile.locator('video'));
    await close(page);
  });

  for (const token of ['ask', 'admin']) {
    await check(`the role ${token} asks, and keeps events`, async () => {
      const page = await openAs(browser, token, 'live');
      const titles = await navigation(page);
      assert(titles.includes('Ask'), 'the navigation has no question');
      assert(titles.includes('Cameras') === (token === 'admin'), `the navigation has ${titles}`);
      const tile = page.locator('.tile[data-camera="gate"][data-event]');
      await tile.getByRole('link', { name: 'Ask about gate' }).waitFor();
      const id = await tile.getAttribute('data-event');
      await page.goto(`${base}#/event?id=${id}`);
      await page.getByRole('button', { name: 'Keep', exact: true }).click();
      await page.getByRole('button', { name: 'Kept', exact: true }).waitFor();
      await page.getByRole('button', { name: 'Kept', exact: true }).click();
      await page.getByRole('button', { name: 'Keep', exact: true }).waitFor();
      const { events } = await read(page, 'events?kind=caption&camera=gate&limit=1');
      await page.goto(`${base}#/ask?${aboutWindow(events[0])}`);
      await page.getByLabel('Question', { exact: true }).fill('Is there a person?');
      await page.getByRole('button', { name: 'Ask', exact: true }).first().click();
      await page.locator('.answer[aria-busy=false] .evidence img').first().waitFor();
      await close(page);
    });
  }

  await check('a token that is limited to a camera sees nothing of the others', async () => {
    const page = await openAs(browser, 'gate', 'live');
    await page.locator('.tile[data-camera="gate"]').waitFor();
    assert((await page.locator('.tile').count()) === 1, 'there is a tile of another camera');
    assert(!(await navigation(page)).includes('Cameras'), 'the navigation has the changes of cameras');
    await page.goto(`${base}#/status`);
    await page.locator('.status tbody tr').waitFor();
    await page.getByText('The numbers of the daemon are for tokens that see all cameras.').waitFor();
    await accessible(page);
    await page.goto(`${base}#/camera?name=drive`);
    await page.getByText('No camera is named drive').waitFor();
    await close(page);
  });

  await check('a revoked token leads to the form, and the next one back to the view', async () => {
    const page = await openAs(browser, 'revoked', 'camera?name=gate');
    await page.locator('.camera-events li').first().waitFor();
    await page.keyboard.press('?');
    await page.getByRole('dialog').waitFor();
    await act('revoke');
    await page.getByText('The session has ended, because its token expired or was revoked.').waitFor();
    assert(page.url().endsWith('#/camera?name=gate'), page.url());
    assert((await page.locator('img, video').count()) === 0, 'images of the camera are still shown');
    await accessible(page);
    await until('the cookie to be removed', async () => (await page.context().cookies()).length === 0);
    await signIn(page, tokens.view);
    await page.locator('.camera-events li').first().waitFor();
    assert(page.url().endsWith('#/camera?name=gate'), page.url());
    await close(page);
  });

  await check('signing out ends the session in every tab', async () => {
    const page = await openAs(browser, 'ask', 'search');
    assert((await read(page, 'access')).token === 'ben', 'another token is signed in');
    const other = await page.context().newPage();
    await other.goto(`${base}#/status`);
    await other.locator('.status tbody tr').first().waitFor();
    await page.locator('#account-button').click();
    await page.getByRole('button', { name: 'Sign out' }).click();
    for (const tab of [page, other]) await tab.getByLabel('Token', { exact: true }).waitFor();
    assert(page.url().endsWith('#/search'), page.url());
    assert((await read(page, 'access')).reason === 'NO_TOKEN', 'the cookie is still sent');
    await close(page);
  });

  // The last check, because this address must wait after it.
  await check('after many wrong tokens the form counts the seconds to wait', async () => {
    const page = await open(browser, base, 'live', { expected: REFUSED });
    const waits = page.getByRole('button', { name: /Try again in \d+ s/ });
    const error = page.locator('#token-error');
    for (let tries = 0; tries < 20 && !(await waits.isVisible()); tries += 1) {
      await signIn(page, `lookout_${tries}`);
      await until('the reply', async () => (await error.textContent()) !== '');
    }
    await page.getByText('Too many wrong tokens came from this address.').waitFor();
    assert(await waits.isDisabled(), 'the button can be pressed at once');
    const seconds = async () => Number((await waits.textContent()).match(/\d+/)[0]);
    const first = await seconds();
    assert(first > 0 && first <= 60, `it waits ${first} s`);
    await until('the number to fall', async () => (await seconds()) < first);
    await accessible(page);
    await close(page);
  });
});
