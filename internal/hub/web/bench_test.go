package web_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/web/webtest"
)

// percentile is that of durations, in ms.
func percentile(list []time.Duration, p int) float64 {
	slices.Sort(list)
	return list[(len(list)*p+99)/100-1].Seconds() * 1e3
}

// BenchmarkFleet1000 asks for the page of 1,000 hosts, by HTTP from a hub with SQLite: the time to its first byte, and its size as sent and as read.
func BenchmarkFleet1000(b *testing.B) {
	w := many(b, 1000)
	for name, path := range map[string]string{"whole": "/", "rows": "/?rows=host-0001,host-0500", "release": "/-/releases/41", "host": "/-/hosts/host-0007"} {
		b.Run(name, func(b *testing.B) {
			var first []time.Duration
			var sent, text int
			for b.Loop() {
				began := time.Now()
				resp := w.request(http.MethodGet, path, "", token("read"), header("Accept-Encoding", "gzip"))
				one := make([]byte, 1)
				if _, err := io.ReadFull(resp.Body, one); err != nil {
					b.Fatal(err)
				}
				first = append(first, time.Since(began))
				rest, err := io.ReadAll(resp.Body)
				must(b, err)
				sent = 1 + len(rest)
				z, err := gzip.NewReader(bytes.NewReader(append(one, rest...)))
				must(b, err)
				all, err := io.ReadAll(z)
				must(b, err)
				text = len(all)
			}
			b.ReportMetric(percentile(first, 50), "ms/first-p50")
			b.ReportMetric(percentile(first, 95), "ms/first-p95")
			b.ReportMetric(float64(sent)/1000, "kB/sent")
			b.ReportMetric(float64(text)/1000, "kB/text")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkSeen has one of 1,000 hosts report that it failed, or is well again, and takes the time until that is in the document of a real browser.
func BenchmarkSeen(b *testing.B) {
	w := many(b, 1000)
	tab := w.open(webtest.Start(b), 1280, 900)
	tab.Go(w.url + "/")
	tab.Until("the page is live", `document.querySelector("#link").textContent == "live"`)
	tab.Eval(`new Promise(done => setTimeout(done, 3000))`, nil)
	r := w.Newest().Source
	ref := fleet.ReleaseRef{Number: 41, Source: r}
	var seen []time.Duration
	at := time.Now().UTC()
	for i := 0; b.Loop(); i++ {
		want := []string{"failed", "converged"}[i%2]
		tab.Eval(`window.seen = new Promise(done => { const look = () => document.querySelector("#host-host-0500")?.className.includes("`+want+`") ? done(true) : null; new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true }); look(); }); true`, nil)
		at = at.Add(10 * time.Millisecond)
		s := status("host-0500", ref, at.Add(3*time.Second))
		if i%2 == 0 {
			s.Phase, s.Failure = fleet.PhaseHeld, &fleet.Failure{Message: "it was so late"}
		}
		began := time.Now()
		w.tell("host-0500", "/api/v1/reports", s)
		tab.Eval(`window.seen`, nil)
		seen = append(seen, time.Since(began))
		time.Sleep(1500 * time.Millisecond)
	}
	b.ReportMetric(percentile(seen, 50), "ms/seen-p50")
	b.ReportMetric(percentile(seen, 95), "ms/seen-p95")
	b.ReportMetric(0, "ns/op")
}
