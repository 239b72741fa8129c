package webtest

// Wide are elements that stand out to the right of the window; none when the page fits into it.
func (tab *Tab) Wide() (found []string) {
	tab.b.t.Helper()
	tab.Eval(`document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre, svg, .hidden")).map(e => e.outerHTML.slice(0, 120)).slice(0, 4).concat("the page")`, &found)
	return found
}

// Pale are texts whose contrast to what is behind them is below WCAG's AA.
func (tab *Tab) Pale() (found []string) {
	tab.b.t.Helper()
	tab.Eval(contrast, &found)
	return found
}

const contrast = `(() => {
  const rgb = (c) => (c.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > .99) return c; } return [255, 255, 255]; };
  const found = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.closest("svg, title, script, noscript, .hidden, .skip, [hidden]")) continue;
    const a = light(rgb(getComputedStyle(e).color)), b = light(behind(e)), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.add(ratio.toFixed(2) + " " + e.outerHTML.slice(0, 80));
  }
  return [...found].slice(0, 5);
})()`
