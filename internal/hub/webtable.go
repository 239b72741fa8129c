package hub

import (
	"net/netip"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// WebTable is hub.toml's table [web]: the page, and who may read it without a token.
type WebTable struct {
	Enabled *bool `toml:"enabled"` // default true
	// Loopback lets in who asks on loopback itself, by a name of it, without a proxy: every user of this machine.
	Loopback bool `toml:"loopback"`
	// Proxy says whose word is believed about who asks.
	Proxy struct {
		Header string   `toml:"header"` // with the user's name
		From   []string `toml:"from"`   // addresses, or networks as 192.0.2.0/24
	} `toml:"proxy"`
}

// On says whether there is a page.
func (t WebTable) On() bool { return t.Enabled == nil || *t.Enabled }

// ProxyNetworks are proxy.from, which was checked.
func (t WebTable) ProxyNetworks() []netip.Prefix {
	var all []netip.Prefix
	for _, s := range t.Proxy.From {
		if p, err := parseNetwork(s); err == nil {
			all = append(all, p)
		}
	}
	return all
}

func parseNetwork(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		return netip.PrefixFrom(a, a.BitLen()), err
	}
	return netip.ParsePrefix(s)
}

const headerLetters = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func (t WebTable) check(path string) error {
	bad := func(hint, format string, args ...any) error {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: "+format, append([]any{path}, args...)...).WithHint("%s", hint)
	}
	switch header := t.Proxy.Header; {
	case (header == "") != (len(t.Proxy.From) == 0):
		return bad("set both, or neither", "web.proxy has only one of header and from")
	case header != "" && (strings.Trim(header, headerLetters) != "" || strings.EqualFold(header, "Host") || strings.EqualFold(header, "Cookie") || strings.EqualFold(header, "Authorization")):
		return bad("the proxy must set it, and overwrite what a visitor sends: X-Forwarded-User, Remote-User", "web.proxy.header %q cannot tell who asks", header)
	}
	for _, s := range t.Proxy.From {
		switch p, err := parseNetwork(s); {
		case err != nil:
			return bad("give the proxy's address, as 127.0.0.1 or 192.0.2.0/24", "web.proxy.from has %q, which is no address or network", s)
		case p.Bits() == 0:
			return bad("give the proxy's address, as 127.0.0.1", "web.proxy.from has %q: then anybody could say to be anybody", s)
		}
	}
	return nil
}
