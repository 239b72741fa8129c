package otlp

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// FromEnv makes a Client of OpenTelemetry's standard variables; nil where they ask for none. Errors have CodeConfig.
func FromEnv(getenv func(string) string, version string) (*Client, error) {
	of := func(name string) (value, variable string) {
		for _, v := range []string{"OTEL_EXPORTER_OTLP_TRACES_" + name, "OTEL_EXPORTER_OTLP_" + name} {
			if s := getenv(v); s != "" {
				return s, v
			}
		}
		return "", ""
	}
	endpoint, variable := of("ENDPOINT")
	if endpoint == "" || strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") || getenv("OTEL_TRACES_EXPORTER") == "none" {
		return nil, nil
	}
	if protocol, v := of("PROTOCOL"); protocol != "" && !strings.HasPrefix(protocol, "http/") {
		return nil, wrong("%s is %q: Garrison speaks OTLP over HTTP alone", v, protocol).WithHint("set it to http/json, and the endpoint to the collector's port for HTTP, usually 4318")
	}
	if variable == "OTEL_EXPORTER_OTLP_ENDPOINT" {
		endpoint = strings.TrimRight(endpoint, "/") + "/v1/traces"
	}
	ca, _ := of("CERTIFICATE")
	c, err := NewClient(endpoint, ca, version)
	if err != nil {
		return nil, err
	}
	list, variable := of("HEADERS")
	headers, err := parseHeaders(list)
	if err != nil {
		return nil, wrong("%s is not a list like key=value,key2=value2", variable)
	}
	c.Headers = func() (http.Header, error) { return headers.Clone(), nil }
	if s, v := of("TIMEOUT"); s != "" {
		ms, err := strconv.Atoi(s)
		if err != nil || ms < 1 {
			return nil, wrong("%s is %q, not a number of milliseconds", v, s)
		}
		c.Timeout = time.Duration(ms) * time.Millisecond
	}
	return c, nil
}

func wrong(format string, args ...any) *fleet.Error {
	return fleet.Errorf(fleet.Local, fleet.CodeConfig, format, args...)
}

// parseHeaders reads a list as in W3C's baggage: values may be percent-encoded.
func parseHeaders(list string) (http.Header, error) {
	headers := http.Header{}
	for pair := range strings.SplitSeq(list, ",") {
		pair = strings.TrimSpace(pair)
		if pair == "" {
			continue
		}
		key, v, ok := strings.Cut(pair, "=")
		v, err := url.PathUnescape(strings.TrimSpace(v))
		if key = strings.TrimSpace(key); !ok || key == "" || err != nil {
			return nil, cmp.Or(err, error(wrong("a header has no value")))
		}
		headers.Add(key, v)
	}
	return headers, nil
}

// ParseHeaderLines reads headers, one "Name: value" a line.
func ParseHeaderLines(text []byte) (http.Header, error) {
	headers := http.Header{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, v, ok := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); !ok || key == "" || strings.ContainsAny(key, " \t") {
			return nil, wrong("a line is not like Name: value")
		}
		headers.Add(key, strings.TrimSpace(v))
	}
	return headers, nil
}

// NewClient makes one for a collector at endpoint, the whole URL. caFile, if not "", has the certificates that are believed, in place of the system's. Errors have CodeConfig.
func NewClient(endpoint, caFile, version string) (*Client, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, wrong("the trace collector's URL %q is none of http or https", endpoint).WithHint("it is like http://127.0.0.1:4318/v1/traces")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(pem) {
			return nil, wrong("%s has no certificates that can be read", caFile).WithCause(err)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &Client{URL: endpoint, Version: version, HTTP: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}
