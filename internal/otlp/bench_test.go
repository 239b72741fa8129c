package otlp

import (
	"fmt"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// BenchmarkRollout10000 is all that is done to trace a release on 10,000 hosts, but for the network: 80,000 spans, in requests of 100 deployments.
func BenchmarkRollout10000(b *testing.B) {
	const hosts = 10_000
	var names []string
	var events []fleet.Event
	for i := range hosts {
		names = append(names, fmt.Sprintf("host%05d", i))
		d := deployment(1, names[i], 30, nil)
		d.Stages = nil
		for _, s := range []fleet.Stage{fleet.Fetch, fleet.Verify, fleet.Staging, fleet.Gate, fleet.Activate, fleet.Check, fleet.Commit} {
			d.Stages = append(d.Stages, fleet.StageTime{Stage: s, StartedAt: at(110), Seconds: 2, ToolSeconds: 1})
		}
		events = append(events, told(b, d)...)
	}
	first := told(b, published(1, names...))[0]
	c := Client{Version: "1"}
	for b.Loop() {
		var p Pushes
		p.Event(first, zero)
		spans, sent, bytes := []Span{}, 0, 0
		for i, e := range events {
			spans = append(spans, p.Event(e, zero)...)
			if i%mostEvents == mostEvents-1 {
				body, err := c.body(spans)
				if err != nil {
					b.Fatal(err)
				}
				sent, bytes, spans = sent+len(spans), bytes+len(body), spans[:0]
			}
		}
		if sent != 8*hosts+1 {
			b.Fatal(sent, " spans")
		}
		b.ReportMetric(float64(bytes)/1e6, "MB-sent")
	}
}
