package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/garrison-nix/garrison/internal/nar"
)

// A realisation says which path an output of a derivation came out as, where that does not follow from the derivation.
// Up to Nix 2.34 it is realisations/<hash>!<output>.doi, from 2.35 on build-trace-v2/<drv>/<output>.doi. Ours signs it as it signs paths.

const (
	maxRealisationBytes = 256 << 10
	maxDependents       = 1000
)

// realisation is what is kept of one.
type realisation struct {
	ID         string            `json:"id,omitempty"`                    // "sha256:<hex>!<output>", of the older kind
	Dependents map[string]string `json:"dependentRealisations,omitempty"` // of the older kind: base names by id
	Drv        string            `json:"drvPath,omitempty"`               // base name, of the newer kind
	Output     string            `json:"outputName,omitempty"`            // of the newer kind
	OutPath    string            `json:"outPath"`                         // base name
	Sigs       []string          `json:"signatures"`                      // of others, "name:base64"
}

// signature is what the newer kind has for "name:base64"; either form is read.
type signature struct{ KeyName, Sig string }

func (g *signature) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		g.KeyName, g.Sig, _ = strings.Cut(text, ":")
		return nil
	}
	var both struct {
		KeyName string `json:"keyName"`
		Sig     string `json:"sig"`
	}
	err := json.Unmarshal(b, &both)
	*g = signature(both)
	return err
}

var outputName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9A-Za-z+._?=-]{1,211}$`) })

// checkID returns an error unless id is "sha256:<64 hex>!<output>".
func checkID(id string) error {
	digits, output, ok := strings.Cut(strings.TrimPrefix(id, "sha256:"), "!")
	if b, err := hex.DecodeString(digits); !ok || err != nil || len(b) != nar.HashSize || !strings.HasPrefix(id, "sha256:") || !outputName().MatchString(output) {
		return fmt.Errorf("%s is not the id of a realisation", quoted(id))
	}
	return nil
}

func checkBase(base, suffix string) error {
	if _, _, _, err := nar.SplitStorePath("/-/" + base); err != nil || strings.Contains(base, "/") || !strings.HasSuffix(base, suffix) {
		return fmt.Errorf("%s is not the name of a store path%s", quoted(base), strings.Replace(suffix, ".drv", " of a derivation", 1))
	}
	return nil
}

// named is the realisation that a request's path names, without what it says.
func named(drv, file string) (*realisation, error) {
	output, ok := strings.CutSuffix(file, ".doi")
	switch {
	case !ok:
		return nil, fmt.Errorf("%s does not end in .doi", quoted(file))
	case drv == "":
		return &realisation{ID: output}, checkID(output)
	case !outputName().MatchString(output):
		return nil, fmt.Errorf("%s is not the name of an output", quoted(output))
	}
	return &realisation{Drv: drv, Output: output}, checkBase(drv, ".drv")
}

// parse reads what a client says of a realisation that is named already.
func (n *realisation) parse(text []byte) error {
	var in struct {
		ID         *string           `json:"id"`
		Dependents map[string]string `json:"dependentRealisations"`
		OutPath    string            `json:"outPath"`
		Sigs       []signature       `json:"signatures"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return fmt.Errorf("the realisation is not JSON of the form expected: %w", err)
	}
	if n.ID != "" {
		if in.ID == nil || *in.ID != n.ID {
			return fmt.Errorf("the realisation does not say that its id is %s", n.ID)
		}
		if len(in.Dependents) > maxDependents {
			return fmt.Errorf("the realisation depends on %d others, at most %d are taken", len(in.Dependents), maxDependents)
		}
		for id, base := range in.Dependents {
			if err := errors.Join(checkID(id), checkBase(base, "")); err != nil {
				return err
			}
		}
		n.Dependents = in.Dependents
	}
	if err := checkBase(in.OutPath, ""); err != nil {
		return err
	}
	n.OutPath, n.Sigs = in.OutPath, []string{}
	for _, g := range in.Sigs {
		if sig := g.KeyName + ":" + g.Sig; nar.ValidSignature(sig) && len(n.Sigs) < maxSigs && !slices.Contains(n.Sigs, sig) {
			n.Sigs = append(n.Sigs, sig)
		}
	}
	return nil
}

// document is what Nix reads, and what signatures are of when it has none: keys in order, without blanks.
func (n *realisation) document(sigs []any) map[string]any {
	out := map[string]any{"outPath": n.OutPath}
	if n.ID != "" {
		out["id"], out["dependentRealisations"] = n.ID, n.Dependents
		if n.Dependents == nil {
			out["dependentRealisations"] = map[string]string{}
		}
	}
	if sigs != nil {
		out["signatures"] = sigs
	}
	return out
}

func (n *realisation) fingerprint() ([]byte, error) {
	if n.ID != "" {
		return json.Marshal(n.document(nil))
	}
	return json.Marshal(map[string]any{"key": map[string]string{"drvPath": n.Drv, "outputName": n.Output}, "value": n.document(nil)})
}

// signed is what is served.
func (n *realisation) signed(c *Cache) ([]byte, error) {
	fingerprint, err := n.fingerprint()
	if err != nil {
		return nil, err
	}
	sigs, err := c.sign(fingerprint)
	if err != nil {
		return nil, err
	}
	all := []any{}
	for _, sig := range append(sigs, others(c, n.Sigs)...) {
		if n.ID != "" {
			all = append(all, sig)
			continue
		}
		name, b64, _ := strings.Cut(sig, ":")
		all = append(all, map[string]string{"keyName": name, "sig": b64})
	}
	return json.Marshal(n.document(all))
}

func (n *realisation) key(c *Cache) string {
	sum := sha256.Sum256([]byte(n.ID + "\x00" + n.Drv + "\x00" + n.Output))
	return nar.Hash(sum).Nix32() + "-" + c.id() + realisationKeySuffix
}

// realisation is what is kept under key; noSuchObject when the path that it tells of is not here.
func (s *Server) realisation(ctx context.Context, c *Cache, key string) (*realisation, error) {
	f, err := s.Blobs.Open(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return nil, noSuchObject(key)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	inside, done, err := s.unzstd(f)
	if err != nil {
		return nil, err
	}
	defer done()
	text, err := io.ReadAll(io.LimitReader(inside, 2*maxRealisationBytes))
	if err != nil {
		return nil, err
	}
	var n realisation
	if err := json.Unmarshal(text, &n); err != nil {
		return nil, fmt.Errorf("a realisation that is kept as %s cannot be read: %w", key, err)
	}
	return &n, s.hasOutput(ctx, c, &n)
}

// hasOutput makes sure that the path that n tells of is here, or upstream.
func (s *Server) hasOutput(ctx context.Context, c *Cache, n *realisation) error {
	storePath := s.StoreDir + "/" + n.OutPath
	hashPart, err := nar.HashPart(storePath)
	if err != nil {
		return err
	}
	found, err := s.lookup(ctx, c, []string{hashPart})
	if err != nil {
		return err
	}
	r, ok := found[hashPart]
	if ok && r.StorePath == storePath {
		if ok, err = s.isThere(ctx, c, r); ok || err != nil {
			return err
		}
	}
	return noSuchObject(storePath)
}

func (s *Server) getRealisation(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	n, err := named(r.PathValue("drv"), r.PathValue("file"))
	if err != nil {
		return noSuchObject(r.PathValue("file"))
	}
	n, err = s.realisation(r.Context(), c, n.key(c))
	if err != nil {
		return err
	}
	text, err := n.signed(c)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = w.Write(text) // it fails when the client is gone
	return nil
}

// putRealisation keeps a realisation whose path is here. As with paths, the first one counts as long as its path is here.
func (s *Server) putRealisation(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Push)
	if err != nil {
		return err
	}
	n, err := named(r.PathValue("drv"), r.PathValue("file"))
	if err != nil {
		return badRequest("%v", err)
	}
	text, err := s.readBody(w, r, maxRealisationBytes)
	if err != nil {
		return err
	}
	if err := n.parse(text); err != nil {
		return badRequest("%v", err)
	}
	key := n.key(c)
	defer s.locks.lock(key)()
	old, err := s.realisation(r.Context(), c, key)
	var refused *httpError
	switch {
	case errors.As(err, &refused): // there is none
	case err != nil:
		return err
	case old.OutPath != n.OutPath:
		return &httpError{status: http.StatusConflict, kind: "Conflict", message: "this output was realised as " + old.OutPath + " already; the first one counts, because hosts may have it"}
	}
	err = s.hasOutput(r.Context(), c, n)
	if errors.As(err, &refused) {
		return badRequest("%s is not here: upload it first", n.OutPath)
	}
	if err != nil {
		return err
	}
	kept, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return s.Blobs.Put(r.Context(), key, func(to io.Writer) error {
		return s.zstdTo(to, func(z io.Writer) error {
			_, err := z.Write(kept)
			return err
		})
	})
}
