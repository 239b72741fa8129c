// Package metrics writes Prometheus' text format, version 0.0.4, by hand (docs/decisions/0007-metrics-by-hand.md).
//
// What it guarantees: labels are escaped, and a histogram's buckets are cumulative and end with +Inf. That each family has
// one HELP and TYPE, and no series comes twice, is its caller's to keep. Start at Page.
package metrics

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ContentType is that of a Page.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Page is a page of metrics. The zero value is ready.
type Page struct{ strings.Builder }

// Begin says what the samples that follow are of.
func (p *Page) Begin(name, kind, help string) {
	fmt.Fprintf(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// Sample adds one; labels are names and values in turn.
func (p *Page) Sample(name string, value float64, labels ...string) {
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	p.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		open := ","
		if i == 0 {
			open = "{"
		}
		p.WriteString(open + labels[i] + `="` + escape.Replace(strings.ToValidUTF8(labels[i+1], "�")) + `"`)
	}
	if len(labels) > 0 {
		p.WriteString("}")
	}
	p.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
}

// One is a metric with one sample.
func (p *Page) One(name, kind, help string, value float64) {
	p.Begin(name, kind, help)
	p.Sample(name, value)
}

// Flag is a gauge that is 1 or 0.
func (p *Page) Flag(name, help string, on bool) { p.One(name, "gauge", help, OneIf(on)) }

// OneIf is 1 for true.
func OneIf(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// UnixSeconds is t as Prometheus has times; 0 for none.
func UnixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// Histogram counts observations by buckets, whose upper bounds it is given each time: the same, in order. The zero value is ready.
type Histogram struct {
	in  []int // up to the bucket's bound and above the one before
	n   int
	sum float64
}

// Observe counts v.
func (h *Histogram) Observe(buckets []float64, v float64) {
	if h.in == nil {
		h.in = make([]int, len(buckets))
	}
	h.n++
	h.sum += v
	if i, _ := slices.BinarySearch(buckets, v); i < len(h.in) {
		h.in[i]++
	}
}

// Histogram adds h's series, after Begin.
func (p *Page) Histogram(name string, buckets []float64, h *Histogram, labels ...string) {
	sum := 0
	for i, bound := range buckets {
		if i < len(h.in) {
			sum += h.in[i]
		}
		p.Sample(name+"_bucket", float64(sum), append(slices.Clip(labels), "le", strconv.FormatFloat(bound, 'g', -1, 64))...)
	}
	p.Sample(name+"_bucket", float64(h.n), append(slices.Clip(labels), "le", "+Inf")...)
	p.Sample(name+"_sum", h.sum, labels...)
	p.Sample(name+"_count", float64(h.n), labels...)
}
