package stream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/stream"
)

// TestServeAndRead: what is sent arrives, in order; a closed channel ends the stream, and one who wants no more leaves it.
func TestServeAndRead(t *testing.T) {
	events := make(chan string)
	left := make(chan struct{}, 2)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stream.Serve(w, r, events, func(s string) []byte { return fmt.Appendf(nil, `{"kind":%q}`, s) })
		left <- struct{}{}
	}))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func() io.ReadCloser {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body
	}
	body := open()
	go func() { events <- "a"; events <- "b" }()
	var got []string
	alive := 0
	enough := errors.New("enough")
	done, err := stream.Read(body, func() { alive++ }, func(e fleet.StreamEvent) (bool, error) {
		if got = append(got, e.Kind); e.Kind == "b" {
			return true, enough
		}
		return false, nil
	})
	if !done || !errors.Is(err, enough) || strings.Join(got, "") != "ab" || alive < 3 {
		t.Errorf("%v, %v, %q, %d", done, err, got, alive)
	}
	cancel() // the client goes away
	body.Close()
	<-left

	ctx = t.Context()
	body = open()
	close(events)
	if done, err := stream.Read(body, func() {}, func(fleet.StreamEvent) (bool, error) { return false, nil }); done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
	<-left
}

func FuzzRead(f *testing.F) {
	f.Add(": hello\n\ndata: {\"kind\":\"wake\"}\n\ndata: {\n\ndata: []\n")
	f.Fuzz(func(t *testing.T, text string) {
		n := 0
		_, _ = stream.Read(strings.NewReader(text), func() { n++ }, func(fleet.StreamEvent) (bool, error) { n--; return false, nil })
		if n < 0 {
			t.Error("more events than lines")
		}
	})
}
