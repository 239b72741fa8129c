// Package webtest drives a real browser for tests of the page: Debian's Chromium, by its debugging protocol over a pipe, with a profile that
// is gone afterwards. Whatever the page complains of on the console, and whatever its policy forbids, is kept. Start at Start.
package webtest

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Browser is one that runs.
type Browser struct {
	t    testing.TB
	cmd  *exec.Cmd
	to   *os.File
	next atomic.Int64

	mu      sync.Mutex
	waiting map[int64]chan answer
	tabs    map[string]*Tab
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// Tab is one of its tabs.
type Tab struct {
	b       *Browser
	session string

	mu         sync.Mutex
	complaints []string
	loaded     chan struct{} // closed when the page that is gone to is there
}

// Start starts a browser that ends with the test. under is put before its command, such as what enters a namespace; usually nothing.
func Start(t testing.TB, under ...string) *Browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	must(t, err)
	in, to := pipe(t)
	from, out := pipe(t)
	profile := t.TempDir()
	args := append(under, program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-dev-shm-usage", "--disable-breakpad", "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe", "--user-data-dir="+profile, "about:blank")
	b := &Browser{t: t, to: to, waiting: map[int64]chan answer{}, tabs: map[string]*Tab{}}
	b.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), args[0], args[1:]...)
	b.cmd.Env = append(os.Environ(), "HOME="+profile, "XDG_CONFIG_HOME="+profile, "XDG_CACHE_HOME="+profile, "DBUS_SESSION_BUS_ADDRESS=disabled:")
	b.cmd.ExtraFiles = []*os.File{in, out} // 3 and 4, as it wants them
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said strings.Builder
	b.cmd.Stderr = &said
	must(t, b.cmd.Start())
	must(t, errors.Join(in.Close(), out.Close()))
	done := make(chan struct{})
	go func() { defer close(done); b.listen(from) }()
	t.Cleanup(func() {
		_, _ = b.call("", "Browser.close", nil) // it may be gone
		ended := make(chan struct{})
		go func() { _ = b.cmd.Wait(); close(ended) }() // it was told to
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
		}
		_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // what it left; nothing, if it ended well
		<-ended
		must(t, to.Close())
		<-done
		if t.Failed() {
			for line := range strings.Lines(said.String()) {
				if !strings.Contains(line, "dbus/") { // which it misses, and does without
					t.Logf("the browser: %s", line)
				}
			}
		}
	})
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	return r, w
}

// listen hands on what the browser says, until it is gone.
func (b *Browser) listen(from *os.File) {
	defer from.Close()
	for r := bufio.NewReader(from); ; {
		text, err := r.ReadBytes(0)
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, w := range b.waiting {
				close(w)
			}
			b.waiting = nil
			return
		}
		var m struct {
			ID        int64
			SessionID string
			Method    string
			Params    json.RawMessage
			answer
		}
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		w, tab := b.waiting[m.ID], b.tabs[m.SessionID]
		delete(b.waiting, m.ID)
		b.mu.Unlock()
		if w != nil {
			w <- m.answer
		} else if tab != nil {
			tab.heard(m.Method, m.Params)
		}
	}
}

// call asks the browser for something.
func (b *Browser) call(session, method string, params any) (json.RawMessage, error) {
	id, w := b.next.Add(1), make(chan answer, 1)
	text, err := json.Marshal(struct {
		ID        int64  `json:"id"`
		SessionID string `json:"sessionId,omitempty"`
		Method    string `json:"method"`
		Params    any    `json:"params,omitempty"`
	}{id, session, method, params})
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	if b.waiting == nil {
		b.mu.Unlock()
		return nil, errors.New("the browser is gone")
	}
	b.waiting[id] = w
	_, err = b.to.Write(append(text, 0))
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case a, ok := <-w:
		if !ok {
			return nil, errors.New("the browser is gone")
		}
		if a.Error != nil {
			return nil, fmt.Errorf("%s: %s", method, a.Error.Message)
		}
		return a.Result, nil
	case <-time.After(time.Minute):
		return nil, fmt.Errorf("%s: no answer within a minute", method)
	}
}

type m = map[string]any

// Open opens a tab, as wide and high as said.
func (b *Browser) Open(width, height int) *Tab {
	b.t.Helper()
	var target struct{ TargetID string }
	b.into("", "Target.createTarget", m{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.into("", "Target.attachToTarget", m{"targetId": target.TargetID, "flatten": true}, &attached)
	tab := &Tab{b: b, session: attached.SessionID}
	b.mu.Lock()
	b.tabs[tab.session] = tab
	b.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		tab.do(domain+".enable", nil)
	}
	tab.Size(width, height)
	return tab
}

func (b *Browser) into(session, method string, params, to any) {
	b.t.Helper()
	result, err := b.call(session, method, params)
	must(b.t, err)
	if to != nil {
		must(b.t, json.Unmarshal(result, to))
	}
}

func (tab *Tab) do(method string, params any) {
	tab.b.t.Helper()
	tab.b.into(tab.session, method, params, nil)
}

func (tab *Tab) heard(method string, params json.RawMessage) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	switch method {
	case "Runtime.exceptionThrown":
		tab.complaints = append(tab.complaints, string(params))
	case "Runtime.consoleAPICalled", "Log.entryAdded":
		var e struct {
			Type  string
			Entry struct{ Level, Text, URL string }
		}
		_ = json.Unmarshal(params, &e) // the browser's own
		if e.Type == "error" || e.Type == "warning" || e.Type == "assert" {
			tab.complaints = append(tab.complaints, string(params))
		}
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			tab.complaints = append(tab.complaints, e.Entry.Text+" "+e.Entry.URL)
		}
	case "Page.loadEventFired":
		if tab.loaded != nil {
			close(tab.loaded)
			tab.loaded = nil
		}
	}
}

// Complaints are what the console, the policy and the script complained of since it was last asked.
func (tab *Tab) Complaints() []string {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	list := tab.complaints
	tab.complaints = nil
	return list
}

// Size makes the tab so wide and high; below 600 it is a phone.
func (tab *Tab) Size(width, height int) {
	tab.b.t.Helper()
	scale := 1
	if width < 600 {
		scale = 2
	}
	tab.do("Emulation.setDeviceMetricsOverride", m{"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600})
}

// Prefer sets what the reader prefers, such as "prefers-color-scheme", "dark".
func (tab *Tab) Prefer(feature, value string) {
	tab.b.t.Helper()
	tab.do("Emulation.setEmulatedMedia", m{"features": []m{{"name": feature, "value": value}}})
}

// Scripts says whether the page's scripts run.
func (tab *Tab) Scripts(run bool) {
	tab.b.t.Helper()
	tab.do("Emulation.setScriptExecutionDisabled", m{"value": !run})
}

// Offline cuts the tab off the network, or lets it back.
func (tab *Tab) Offline(off bool) {
	tab.b.t.Helper()
	tab.do("Network.emulateNetworkConditions", m{"offline": off, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1})
}

// Headers are sent with every request from now on.
func (tab *Tab) Headers(headers map[string]string) {
	tab.b.t.Helper()
	tab.do("Network.setExtraHTTPHeaders", m{"headers": headers})
}

// Go goes to a page and waits until it is there.
func (tab *Tab) Go(url string) {
	tab.b.t.Helper()
	tab.Leads(func() { tab.do("Page.navigate", m{"url": url}) })
}

// Leads does what leads to another page, and waits until that is there.
func (tab *Tab) Leads(do func()) {
	tab.b.t.Helper()
	loaded := make(chan struct{})
	tab.mu.Lock()
	tab.loaded = loaded
	tab.mu.Unlock()
	do()
	select {
	case <-loaded:
	case <-time.After(time.Minute):
		tab.b.t.Fatal("no page within a minute")
	}
}

// Eval is what a script comes to, which may be a promise.
func (tab *Tab) Eval(script string, to any) {
	tab.b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	tab.b.into(tab.session, "Runtime.evaluate", m{"expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true}, &r)
	if r.ExceptionDetails != nil {
		tab.b.t.Fatalf("%s: %s", script, r.ExceptionDetails)
	}
	if to != nil {
		must(tab.b.t, json.Unmarshal(r.Result.Value, to))
	}
}

// Until waits until a script comes to true.
func (tab *Tab) Until(what, script string) {
	tab.b.t.Helper()
	ok := false
	for end := time.Now().Add(time.Minute); !ok; time.Sleep(20 * time.Millisecond) {
		if tab.Eval("(() => { try { return Boolean("+script+") } catch { return false } })()", &ok); time.Now().After(end) {
			var text string
			tab.Eval("document.body.innerText", &text)
			tab.b.t.Fatalf("not within a minute: %s; the page says\n%s", what, text)
		}
	}
}

// Key presses a key, such as "Tab" or "Enter".
func (tab *Tab) Key(key string) {
	tab.b.t.Helper()
	codes, text := map[string]int{"Tab": 9, "Enter": 13}, map[string]string{"Enter": "\r"}
	tab.do("Input.dispatchKeyEvent", m{"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": codes[key], "text": text[key]})
	tab.do("Input.dispatchKeyEvent", m{"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": codes[key]})
}

// Type types a text where the focus is.
func (tab *Tab) Type(text string) {
	tab.b.t.Helper()
	tab.do("Input.insertText", m{"text": text})
}

// Shot writes what is seen to a PNG file; whole is all of the page.
func (tab *Tab) Shot(file string, whole bool) {
	tab.b.t.Helper()
	var shot struct{ Data string }
	tab.b.into(tab.session, "Page.captureScreenshot", m{"format": "png", "captureBeyondViewport": whole}, &shot)
	data, err := base64.StdEncoding.DecodeString(shot.Data)
	must(tab.b.t, err)
	must(tab.b.t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(tab.b.t, os.WriteFile(file, data, 0o644))
}
