package hub

import (
	"net"
	"net/url"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// MetricsTable is hub.toml's table [metrics]. The hub's own address serves them, too, to who has a token that may read.
type MetricsTable struct {
	Listen string `toml:"listen"` // host:port to serve metrics on, the cache's among them, to anybody; not at all by default
}

// TraceTable is hub.toml's table [trace]: where the traces of pushes go.
type TraceTable struct {
	Endpoint    string `toml:"endpoint"`    // URL of an OTLP/HTTP receiver, with its path; nothing is traced without
	HeadersFile string `toml:"headersFile"` // lines like "Authorization: Bearer …", read again for every request
	CAFile      string `toml:"caFile"`      // certificates that are believed there, in place of the system's
}

func (t MetricsTable) check(path string) error {
	if _, _, err := net.SplitHostPort(t.Listen); t.Listen != "" && err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: metrics.listen %q is not host:port", path, t.Listen).WithCause(err)
	}
	return nil
}

func (t TraceTable) check(path string) error {
	u, err := url.Parse(t.Endpoint)
	switch {
	case t.Endpoint == "" && (t.HeadersFile != "" || t.CAFile != ""):
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: trace.endpoint is missing: nothing would be sent", path).WithHint("set it to the URL of an OTLP/HTTP receiver, like http://127.0.0.1:4318/v1/traces")
	case t.Endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || len(u.Path) < 2):
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: trace.endpoint %q is not a URL with a path", path, t.Endpoint).WithHint("it is like http://127.0.0.1:4318/v1/traces")
	}
	return nil
}
