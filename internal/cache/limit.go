package cache

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Limits bound what one token, or one address without a token, may do.
type Limits struct {
	RequestsPerSecond int // on average over burstTime; 0 = any number
	Uploads           int // at the same time; 0 = any number, as far as MaxUploads goes
}

// burstTime is how long a client that was quiet may have its whole rate at once: Nix asks for a closure's paths all together.
const burstTime = 10 * time.Second

// limiter holds what each caller has left. The zero value is ready.
type limiter struct {
	mu      sync.Mutex
	buckets map[string]bucket
	swept   time.Time
	uploads map[string]int
}

type bucket struct {
	left float64 // requests
	at   time.Time
}

// admit takes one request off what who has left.
func (l *limiter) admit(perSecond int, who string, now time.Time) error {
	if perSecond <= 0 {
		return nil
	}
	rate := float64(perSecond)
	full := rate * burstTime.Seconds()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buckets == nil || now.Sub(l.swept) > burstTime {
		l.sweep(rate, full, now)
	}
	b, ok := l.buckets[who]
	if !ok {
		b = bucket{left: full, at: now}
	}
	b.left, b.at = min(full, b.left+rate*now.Sub(b.at).Seconds()), now
	if b.left < 1 {
		l.buckets[who] = b
		wait := time.Duration((1 - b.left) / rate * float64(time.Second))
		return tooMany(wait, fmt.Sprintf("more than %d requests per second", perSecond))
	}
	b.left--
	l.buckets[who] = b
	return nil
}

// sweep forgets who has all of it left again.
func (l *limiter) sweep(rate, full float64, now time.Time) {
	if l.buckets == nil {
		l.buckets = map[string]bucket{}
	}
	for who, b := range l.buckets {
		if b.left+rate*now.Sub(b.at).Seconds() >= full {
			delete(l.buckets, who)
		}
	}
	l.swept = now
}

// begin counts an upload of who's until end is called.
func (l *limiter) begin(most int, who string) (end func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if most > 0 && l.uploads[who] >= most {
		return nil, tooMany(time.Second, fmt.Sprintf("more than %d uploads at the same time", most))
	}
	if l.uploads == nil {
		l.uploads = map[string]int{}
	}
	l.uploads[who]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.uploads[who]--; l.uploads[who] == 0 {
			delete(l.uploads, who)
		}
	}, nil
}

func tooMany(wait time.Duration, what string) error {
	return &httpError{status: http.StatusTooManyRequests, kind: "TooManyRequests", message: what + ": wait, or ask whoever runs the cache for more", retryAfter: wait}
}

// beginUpload waits until an archive may be received; when it is, end must be called.
func (s *Server) beginUpload(r *http.Request) (end func(), err error) {
	ctx := r.Context()
	endOwn, err := s.limiter.begin(s.Limits.Uploads, callerOf(ctx).who())
	if err != nil {
		return nil, err
	}
	if err := acquire(ctx, s.uploads); err != nil {
		endOwn()
		return nil, err
	}
	return func() { <-s.uploads; endOwn() }, nil
}

// Address is where a request comes from: of IPv6 the network, as one client may have all addresses of it.
func (s *Server) Address(r *http.Request) string {
	at := parseAddress(r.RemoteAddr)
	for hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ","); s.isProxy(at) && len(hops) > 0; hops = hops[:len(hops)-1] {
		next := parseAddress(strings.TrimSpace(hops[len(hops)-1]))
		if !next.IsValid() {
			break
		}
		at = next
	}
	if at.Is6() {
		if net, err := at.WithZone("").Prefix(64); err == nil {
			return net.String()
		}
	}
	return at.String()
}

func (s *Server) isProxy(a netip.Addr) bool {
	return slices.ContainsFunc(s.Proxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// parseAddress reads an address, with a port or without.
func parseAddress(text string) netip.Addr {
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	a, _ := netip.ParseAddr(text)
	return a.Unmap()
}
