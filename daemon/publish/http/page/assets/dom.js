// Makes elements. Every text becomes a text node, so that markup in it is shown and never run.

const SVG = 'http://www.w3.org/2000/svg';

/**
 * Makes an HTML element.
 * @param {string} tag
 * @param {Object<string, any>} [properties] Attributes. `on…` adds a listener, `class` may be a
 *   list, `true` sets an attribute without a value, `false` and `null` leave it out.
 * @param {...any} children Nodes and texts; lists are flattened, `null` and `false` left out.
 */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Makes an SVG element, like `h`. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'class') element.setAttribute('class', [value].flat().filter(Boolean).join(' '));
    else if (name === 'value') element.value = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Replaces the content of an element. */
export function show(element, ...children) {
  element.replaceChildren(...nodes(children));
}

/** Sets a text if it differs, so that nothing is laid out or read aloud again for nothing. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Makes an icon of the path of a 24 × 24 drawing. */
export function icon(path) {
  return svg('svg', { viewBox: '0 0 24 24', class: 'icon', 'aria-hidden': 'true' }, svg('path', { d: path }));
}

/** Makes a link into the page. */
export function link(view, parameters, properties, ...children) {
  return h('a', { href: address(view, parameters), ...properties }, ...children);
}

/** Returns the fragment of a view with its parameters. */
export function address(view, parameters = {}) {
  const pairs = Object.entries(parameters).flatMap(([name, value]) => [value].flat().map((one) => [name, one]));
  const query = new URLSearchParams(pairs.filter(([, value]) => value !== null && value !== undefined && value !== ''));
  const text = query.toString();
  return `#/${view}${text ? `?${text}` : ''}`;
}

/** Returns the path and the parameters of the view that a fragment names. */
export function viewOf(fragment) {
  const [path, query = ''] = fragment.replace(/^#\/?/, '').split('?');
  return { path, parameters: new URLSearchParams(query) };
}
