package otlp

import (
	"strconv"
	"time"
)

// The form of an ExportTraceServiceRequest in JSON: IDs are hex digits, 64-bit numbers strings, enumerations numbers.
type (
	request struct {
		ResourceSpans []resourceSpans `json:"resourceSpans"`
	}
	resourceSpans struct {
		Resource   resource     `json:"resource"`
		ScopeSpans []scopeSpans `json:"scopeSpans"`
	}
	resource struct {
		Attributes []keyValue `json:"attributes"`
	}
	scopeSpans struct {
		Scope scope  `json:"scope"`
		Spans []span `json:"spans"`
	}
	scope struct {
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
	}
	span struct {
		TraceID    string     `json:"traceId"`
		SpanID     string     `json:"spanId"`
		ParentID   string     `json:"parentSpanId,omitempty"`
		Name       string     `json:"name"`
		Kind       Kind       `json:"kind"`
		Start      string     `json:"startTimeUnixNano"`
		End        string     `json:"endTimeUnixNano"`
		Attributes []keyValue `json:"attributes,omitempty"`
		Status     *status    `json:"status,omitempty"`
	}
	status struct {
		Code    int    `json:"code"`
		Message string `json:"message,omitempty"`
	}
	keyValue struct {
		Key   string `json:"key"`
		Value value  `json:"value"`
	}
	value struct {
		String *string  `json:"stringValue,omitempty"`
		Int    string   `json:"intValue,omitempty"`
		Double *float64 `json:"doubleValue,omitempty"`
	}
	response struct {
		PartialSuccess struct {
			RejectedSpans number `json:"rejectedSpans"`
			ErrorMessage  string `json:"errorMessage"`
		} `json:"partialSuccess"`
	}
)

// number is a 64-bit number in JSON, with quotes or without.
type number int64

func (n *number) UnmarshalJSON(b []byte) error {
	s := string(b)
	if u, err := strconv.Unquote(s); err == nil {
		s = u
	}
	v, err := strconv.ParseInt(s, 10, 64)
	*n = number(v)
	return err
}

const (
	statusError  = 2
	scopeName    = "github.com/garrison-nix/garrison"
	mostErrorLen = 4096 // bytes of a status' message
)

// encode groups spans by what they are of.
func encode(spans []Span, version string) request {
	var r request
	at := map[[2]string]int{}
	for _, s := range spans {
		of := [2]string{s.Service, s.Host}
		i, known := at[of]
		if !known {
			i = len(r.ResourceSpans)
			at[of] = i
			attributes := []keyValue{text("service.name", s.Service)}
			if s.Host != "" {
				attributes = append(attributes, text("host.name", s.Host))
			}
			r.ResourceSpans = append(r.ResourceSpans, resourceSpans{resource{attributes}, []scopeSpans{{Scope: scope{scopeName, version}}}})
		}
		to := &r.ResourceSpans[i].ScopeSpans[0]
		to.Spans = append(to.Spans, encodeSpan(s))
	}
	return r
}

func encodeSpan(s Span) span {
	e := span{TraceID: s.Trace, SpanID: s.ID, ParentID: s.Parent, Name: s.Name, Kind: s.Kind, Start: nanos(s.Start), End: nanos(s.End)}
	for _, a := range s.Attributes {
		kv := keyValue{Key: a.Name}
		switch v := a.Value.(type) {
		case int64:
			kv.Value.Int = strconv.FormatInt(v, 10)
		case float64:
			kv.Value.Double = &v
		case string:
			kv.Value.String = &v
		}
		e.Attributes = append(e.Attributes, kv)
	}
	if s.Error != "" {
		e.Status = &status{statusError, s.Error[:min(len(s.Error), mostErrorLen)]}
	}
	return e
}

func text(key, v string) keyValue { return keyValue{key, value{String: &v}} }

// nanos is a moment since 1970; one before that, which a host without a clock may name, is 0.
func nanos(t time.Time) string { return strconv.FormatInt(max(0, t.UnixNano()), 10) }
