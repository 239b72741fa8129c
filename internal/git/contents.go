package git

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// contentID is what git-lfs names a content by.
var contentID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// maxContentsAsked bounds a question for contents, in bytes.
const maxContentsAsked = 16 << 20

// serveContents serves what git-lfs keeps in r to the Nix that we run, as git-lfs's batch API has it, on loopback: Nix asks a server only, and
// knows neither the credentials nor the kinds of remotes that git-lfs does. The URL is not to be guessed by others on the machine.
func serveContents(r *Repo) (url string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fleet.Errorf(fleet.Local, fleet.CodeInternal, "cannot listen on 127.0.0.1").WithCause(err)
	}
	url = "http://" + l.Addr().String() + "/" + rand.Text()
	s := &http.Server{Handler: contents(r, url), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // until it is closed
	}()
	return url, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		_ = s.Close()
		<-done
	}, nil
}

// contents answers below url: "which of these do you have?" (Nix puts more or less before that), and for one of them.
func contents(repo *Repo, url string) http.Handler {
	prefix := url[strings.LastIndexByte(url, '/'):]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ours := strings.CutPrefix(r.URL.Path, prefix+"/")
		switch {
		case ours && r.Method == http.MethodPost && strings.HasSuffix(rest, "objects/batch"):
			answerBatch(w, r, url)
		case ours && contentID.MatchString(rest):
			http.ServeFile(w, r, repo.content(rest))
		default:
			http.NotFound(w, r)
		}
	})
}

func answerBatch(w http.ResponseWriter, r *http.Request, url string) {
	type object struct {
		OID     string         `json:"oid"`
		Size    int64          `json:"size"`
		Actions map[string]any `json:"actions,omitempty"`
	}
	var asked struct {
		Objects []object `json:"objects"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxContentsAsked)).Decode(&asked); err != nil {
		http.Error(w, "not a batch", http.StatusBadRequest)
		return
	}
	for i, o := range asked.Objects {
		asked.Objects[i].Actions = map[string]any{"download": map[string]string{"href": url + "/" + o.OID}}
	}
	w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
	_ = json.NewEncoder(w).Encode(map[string]any{"transfer": "basic", "objects": asked.Objects})
}

// noProxy keeps programs from asking a proxy for what is on this machine.
func noProxy() []string {
	var env []string
	for _, name := range []string{"no_proxy", "NO_PROXY"} {
		env = append(env, name+"="+strings.Trim(os.Getenv(name)+",127.0.0.1", ","))
	}
	return env
}
