// What the page's script does: it asks the server for the page anew when something has happened that the page shows, puts what is other in
// place, and says so when it cannot. All text is made by the server.
"use strict";
(() => {
  const body = document.body, byId = (id) => document.getElementById(id);
  const kinds = body.dataset.live.split(" "), ofHost = body.dataset.host;
  const lostAfter = 15000, soon = 80, pause = 300;

  // Relative times, in the words of the server.
  const units = (s) => s < 100 ? Math.floor(s) + " s" : s < 6000 ? Math.floor(s / 60) + " min" : s < 172800 ? Math.floor(s / 3600) + " h" : Math.floor(s / 86400) + " days";
  let ahead = 0; // of this clock to the server's, in ms
  const tell = (t) => {
    const s = (Date.now() - ahead - Date.parse(t.dateTime)) / 1000;
    const said = s < -60 ? "in " + units(-s) : s < 5 ? "now" : units(s) + " ago";
    if (t.textContent !== said) t.textContent = said;
  };
  // How long a ring is to wait yet.
  const spell = (s) => s < 60 ? s + " s" : s < 3600 ? Math.floor(s / 60) + " min " + s % 60 + " s" : s < 172800 ? Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min" : Math.floor(s / 86400) + " days " + Math.floor(s % 86400 / 3600) + " h";
  const count = (t) => {
    const s = Math.ceil((Date.parse(t.dateTime) - (Date.now() - ahead)) / 1000), said = s > 0 ? spell(s) + " left" : "over";
    if (t.textContent !== said) t.textContent = said;
  };
  const countAll = () => document.querySelectorAll("time.left").forEach(count);
  setInterval(countAll, 1000);
  const tellAll = () => { document.querySelectorAll("time.ago").forEach(tell); countAll(); };
  setInterval(tellAll, 5000);

  // Putting a newer page in place of what is shown.
  const same = (a, b) => {
    const text = (e) => { const c = e.cloneNode(true); c.querySelectorAll("time.ago, time.left").forEach((t) => { t.textContent = ""; }); c.classList.remove("new"); c.querySelectorAll(".new").forEach((n) => n.classList.remove("new")); c.querySelectorAll("details").forEach((d) => d.removeAttribute("open")); return c.outerHTML; };
    return text(a) === text(b);
  };
  const put = (now, next) => {
    if (same(now, next)) return;
    const open = new Set([...now.querySelectorAll("details[open][id]")].map((d) => d.id));
    const focus = now.contains(document.activeElement) ? document.activeElement : null;
    const link = focus && (focus.id ? "#" + CSS.escape(focus.id) : focus.getAttribute("href") ? `[href="${CSS.escape(focus.getAttribute("href"))}"]` : "");
    now.replaceWith(next);
    next.querySelectorAll("details[id]").forEach((d) => { if (open.has(d.id)) d.open = true; });
    if (link) next.querySelector(link)?.focus({ preventScroll: true });
  };
  // place returns false when the rows that were asked for are not those that the table is to have.
  const place = (doc, rows) => {
    document.title = doc.title;
    doc.querySelectorAll("[data-part]").forEach((next) => {
      if (rows && next.dataset.part === "whole") return;
      const now = byId(next.id);
      if (now) put(now, next);
    });
    let fits = true;
    if (rows) {
      for (const name of rows) {
        const now = byId("host-" + name), next = doc.getElementById("host-" + name);
        if (!now !== !next) fits = false;
        else if (now && !same(now, next)) {
          if (now.className !== next.className) { fits = false; }
          next.classList.add("new");
          put(now, next);
        } else if (now) { // told again: only its times are other
          const times = next.querySelectorAll("time");
          now.querySelectorAll("time").forEach((t, i) => { if (times[i]) { t.dateTime = times[i].dateTime; t.title = times[i].title; } });
        }
      }
    }
    tellAll();
    find();
    return fits;
  };

  // What is to be asked for: the whole page; or what is not a host, and some hosts.
  let running = false, due = null, dueAt = 0, whole = false, some = false, changed = new Set(), took = 0, generation = 0;
  const ask = async () => {
    if (running) return;
    running = true; due = null;
    const names = whole || changed.size > 100 || !byId("hosts") ? null : [...changed];
    whole = some = false; changed = new Set();
    const began = performance.now(), mine = generation, url = new URL(location.href);
    if (names) url.searchParams.set("rows", names.join(",") || "-");
    try {
      const answer = await fetch(url, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.status === 401) { lost("You are not logged in any more."); return; }
      if (!answer.ok) throw new Error(answer.status);
      const text = await answer.text();
      if (mine === generation) {
        const date = Date.parse(answer.headers.get("Date"));
        if (date && Math.abs(Date.now() - date) > 3000) ahead = Date.now() - date; else ahead = 0;
        if (!place(new DOMParser().parseFromString(text, "text/html"), names)) whole = true;
        body.dataset.shown = String(Number(body.dataset.shown || 0) + 1);
        fresh = true;
        said();
      }
    } catch (e) {
      whole = true;
      fresh = false;
      said();
    } finally {
      took = performance.now() - began;
      running = false;
      if (whole || some || changed.size) later(Math.max(fresh ? pause : 2000, 2 * took));
    }
  };
  const later = (ms) => {
    const at = performance.now() + ms;
    if (running || due && dueAt <= at) return;
    clearTimeout(due);
    dueAt = at;
    due = setTimeout(ask, ms);
  };

  // The stream, and what is said when there is none.
  let source = null, last = Date.now(), connected = false, fresh = true, since = null, why = "";
  const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const said = () => {
    const live = connected && fresh;
    if (live) { since = null; why = ""; } else if (!since) since = last;
    byId("link").classList.toggle("live", live);
    byId("link-said").textContent = live ? "live" : "not connected";
    body.classList.toggle("stale", !live && tried);
    byId("lost").hidden = live || !tried;
    if (!live) {
      byId("lost-since").textContent = clock(since);
      byId("lost-why").textContent = why || "What is shown is from then, and may not be true any more.";
    }
  };
  let tried = false, again = null;
  const lost = (reason) => { connected = false; tried = true; why = reason || why; said(); };
  const close = () => { clearTimeout(again); source?.close(); source = null; };
  const connect = () => {
    close();
    source = new EventSource("/-/stream");
    source.onmessage = (m) => {
      const first = !connected;
      connected = true; tried = true; last = Date.now();
      if (first) { whole = true; later(0); } // whatever came in between
      said();
      const e = JSON.parse(m.data);
      if (!kinds.includes(e.kind) || e.kind === "host" && ofHost && e.name !== ofHost) return;
      if (e.kind === "host") changed.add(e.name);
      if (e.name === "garrison.release.published") whole = true; // no host is any more what it was
      some = true;
      later(soon);
    };
    source.onerror = () => {
      lost();
      close();
      whole = true; later(0); // whose answer tells who is not logged in any more from a hub that is away
      again = setTimeout(connect, 1000 + Math.random() * 2000);
    };
  };
  setInterval(() => { if (source && Date.now() - last > lostAfter) { last = connected ? last : Date.now() - lostAfter; lost(); connect(); } }, 1000);
  // A page that nobody sees needs none: browsers have six connections for one server.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { close(); connected = false; } else if (!source) { connect(); }
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (e) => { if (e.persisted) connect(); });
  byId("lost-again")?.addEventListener("click", (e) => { e.preventDefault(); location.reload(); });

  // Finding and sorting hosts without another page.
  const q = byId("q");
  const find = () => {
    if (!q || !byId("hosts")) return;
    const words = q.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    for (const row of byId("hosts").rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((w) => text.includes(w));
      if (!row.hidden) n++;
    }
    if (words.length) byId("found").firstChild.textContent = n + " shown ";
  };
  const go = (href) => {
    history.replaceState(null, "", href);
    generation++; whole = true;
    if (running) return; // it asks again when it is done
    later(0);
  };
  q?.addEventListener("input", () => {
    find();
    const url = new URL(location.href);
    if (q.value) url.searchParams.set("q", q.value); else url.searchParams.delete("q");
    const url2 = url.pathname + url.search;
    clearTimeout(q.wait);
    q.wait = setTimeout(() => go(url2), 250);
  });
  q?.form.addEventListener("submit", (e) => { e.preventDefault(); q.dispatchEvent(new Event("input")); });
  document.addEventListener("click", (e) => {
    const a = e.target.closest?.("a[data-swap]");
    if (!a || e.ctrlKey || e.metaKey || e.shiftKey || e.button) return;
    e.preventDefault();
    const to = new URL(a.href);
    if (q) q.value = to.searchParams.get("q") || "";
    go(a.href);
  });
  byId("type")?.addEventListener("change", (e) => e.target.form.submit());

  // A log that grows.
  const log = byId("log");
  if (log?.dataset.log) {
    const kept = 256 * 1024;
    let from = new EventSource(log.dataset.log);
    from.onopen = () => { log.textContent = ""; };
    from.onmessage = (m) => {
      const down = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      log.append(clean(JSON.parse(m.data)));
      while (log.textContent.length > kept && log.childNodes.length > 1) log.firstChild.remove();
      if (down) log.scrollTop = log.scrollHeight;
    };
    from.addEventListener("end", () => { from.close(); });
  }
  // clean is as the server does it.
  const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
  function clean(text) { return text.replace(unseen, "\ufffd"); }

  tellAll();
  if (body.dataset.live) connect();
})();
