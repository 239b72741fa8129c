// Package otlp makes one OpenTelemetry trace of each push, from the forge to its hosts, and sends it to a collector: OTLP over HTTP, in its JSON encoding,
// written by hand (docs/decisions/0029-traces-by-hand.md).
//
// What it guarantees: a span's ID follows from what it is of, so one that is sent twice, or by two parties, is the same; and what a collector did not take is
// sent again, after a restart too, as long as the hub's store has it. Start at Pushes, then Exporter.
package otlp

import (
	"cmp"
	"strconv"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Kind is a span's, as OTLP numbers them.
type Kind int

// The kinds that there are here: of CI runs and deployments, which somebody asked for, and of all else.
const (
	Internal Kind = 1
	Server   Kind = 2
)

// Span is one span of a trace.
type Span struct {
	Trace, ID, Parent string // hex digits; Parent is "" for the root
	Name              string
	Kind              Kind
	Start, End        time.Time
	Service, Host     string // whose it is: the resource
	Attributes        []Attribute
	Error             string // why it failed; "" when it did not
}

// Attribute is a name and a value: a string, an int64 or a float64.
type Attribute struct {
	Name  string
	Value any
}

// The services that spans are of.
const (
	servicePush  = "garrison"
	serviceCI    = "garrison-ci"
	serviceAgent = "garrison-agent"
)

// The names of attributes that are ours; docs/FORMATS.md lists them. Others are of OpenTelemetry's semantic conventions.
const (
	attrHost    = "garrison.host"
	attrRelease = "garrison.release"
	attrStage   = "garrison.stage"
	attrResult  = "garrison.result"
	attrTool    = "garrison.tool_seconds"
	attrSubject = "garrison.subject"
	attrEnd     = "garrison.end"
	attrClass   = "garrison.error.class"
	attrOutPath = "garrison.store_path"
	attrError   = "error.type"
)

func (s *Span) set(name string, value any) {
	if value != "" {
		s.Attributes = append(s.Attributes, Attribute{name, value})
	}
}

func (s *Span) source(c fleet.Source) {
	s.set("vcs.ref.head.revision", c.Commit)
	s.set("vcs.ref.head.name", c.Branch)
	if c.Branch != "" {
		s.set("vcs.ref.head.type", "branch")
	}
}

func (s *Span) failed(f *fleet.Failure) {
	if f == nil {
		return
	}
	s.Error = cmp.Or(f.Message, string(f.Code))
	s.set(attrError, string(f.Code))
	s.set(attrClass, string(f.Class))
}

// traceOfRun is the trace that a run belongs to.
func traceOfRun(r fleet.Run) fleet.Trace {
	if t, ok := fleet.ParseTraceparent(r.Trace); ok {
		return t
	}
	if r.Release != nil {
		return r.Release.Push()
	}
	return fleet.NewTrace(r.Source.Commit, "")
}

func superseded(f *fleet.Failure) bool { return f != nil && f.Code == fleet.CodeSuperseded }

// Run is the spans of a run of CI that ended, and of its stages.
func Run(r fleet.Run) []Span {
	t, end := traceOfRun(r), time.Time{}
	if r.EndedAt != nil {
		end = *r.EndedAt
	}
	s := Span{Trace: t.ID, ID: t.Span("run", stamp(r.StartedAt)), Parent: t.Span("push"), Name: "release", Kind: Server, Start: r.StartedAt, End: end, Service: serviceCI}
	s.set("cicd.pipeline.name", "release")
	if r.ID > 0 {
		s.set("cicd.pipeline.run.id", strconv.FormatInt(r.ID, 10))
	}
	s.set("cicd.pipeline.run.url.full", r.URL)
	s.set("cicd.pipeline.result", pipelineResult(r))
	s.source(r.Source)
	if r.Release != nil {
		s.set(attrRelease, r.Release.Name())
	}
	if !superseded(r.Failure) { // that is nobody's fault
		s.failed(r.Failure)
	}
	return withStages(s, r.Stages, r.Failure)
}

func pipelineResult(r fleet.Run) string {
	switch {
	case superseded(r.Failure):
		return "cancellation"
	case r.State == fleet.RunFailed:
		return "failure"
	case r.State == fleet.RunUnchanged:
		return "skip"
	}
	return "success"
}

// Deployment is the spans of a deployment, and of its stages.
func Deployment(d fleet.Deployment) []Span {
	t, start := d.Release.Push(), d.EndedAt
	if len(d.Stages) > 0 {
		start = d.Stages[0].StartedAt
	}
	s := Span{Trace: t.ID, ID: t.Span("deployment", d.Host, d.Release.Name(), stamp(d.EndedAt)), Parent: t.Span("push"), Name: "deployment", Kind: Server,
		Start: start, End: d.EndedAt, Service: serviceAgent, Host: d.Host}
	s.set(attrHost, d.Host)
	s.set(attrRelease, d.Release.Name())
	s.set(attrResult, string(d.Result))
	status := "failed"
	if d.Result == fleet.Committed || d.Result == fleet.Tested || d.Result == fleet.RebootNeeded {
		status = "succeeded"
	}
	s.set("deployment.status", status)
	s.set(attrOutPath, d.OutPath)
	s.source(d.Release.Source)
	s.failed(d.Failure)
	return withStages(s, d.Stages, d.Failure)
}

// withStages are parent and a span for each of its stages; the last of the stage that failure names is the one that failed.
func withStages(parent Span, stages []fleet.StageTime, failure *fleet.Failure) []Span {
	spans, broken := []Span{parent}, -1
	for i, st := range stages {
		s := Span{Trace: parent.Trace, ID: fleet.Trace{ID: parent.Trace}.Span(parent.ID, string(st.Stage), strconv.Itoa(i)), Parent: parent.ID, Name: string(st.Stage), Kind: Internal,
			Start: st.StartedAt, End: st.EndedAt(), Service: parent.Service, Host: parent.Host}
		s.set(attrStage, string(st.Stage))
		s.set(attrHost, parent.Host)
		s.set(attrTool, st.ToolSeconds)
		if failure != nil && st.Stage == failure.Stage {
			broken = len(spans)
		}
		spans = append(spans, s)
	}
	if broken > 0 && parent.Error != "" {
		spans[broken].failed(failure)
	}
	return spans
}

// stamp tells moments apart, however they were written down.
func stamp(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }
