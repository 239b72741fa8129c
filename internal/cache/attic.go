package cache

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Headers of Attic's upload-path: what describes the path is in the first, or at the front of the body, with as many bytes as the second says.
const (
	atticInfoHeader     = "X-Attic-Nar-Info"
	atticPreambleHeader = "X-Attic-Nar-Info-Preamble-Size"
)

// atticPath is how Attic's client describes a path.
type atticPath struct {
	Cache         string   `json:"cache"`
	StorePathHash string   `json:"store_path_hash"`
	StorePath     string   `json:"store_path"`
	References    []string `json:"references"` // base names
	Deriver       string   `json:"deriver"`    // base name
	Sigs          []string `json:"sigs"`
	CA            string   `json:"ca"`
	NarHash       string   `json:"nar_hash"`
	NarSize       int64    `json:"nar_size"`
}

// putUploadPath receives a path in one request: its description, and its archive as it is. (Attic's API.)
func (s *Server) putUploadPath(w http.ResponseWriter, r *http.Request) error {
	text, err := readAtticPath(w, r)
	if err != nil {
		return err
	}
	p, info, err := parseAtticPath(text)
	if err != nil {
		return err
	}
	c, err := s.open(r, p.Cache, Push)
	if err != nil {
		return err
	}
	if err := s.checkPath(p.StorePathHash, info); err != nil {
		return err
	}
	n, isNew, err := s.take(w, r, c, r.Body, narFile{hash: info.NarHash, size: info.NarSize})
	if err != nil {
		return err
	}
	err = s.putWhole(r.Context(), c, p.StorePathHash, info)
	var missing *MissingReferencesError
	if errors.As(err, &missing) {
		err = s.putIncomplete(r.Context(), c, p.StorePathHash, info)
	}
	if err != nil {
		return err
	}
	kind := "Deduplicated"
	if isNew {
		kind = "Uploaded"
	}
	writeJSON(w, http.StatusOK, struct {
		Kind     string   `json:"kind"`
		FileSize int64    `json:"file_size"`
		Fraction *float64 `json:"frac_deduplicated"`
	}{kind, n.FileSize, nil})
	return nil
}

// readAtticPath returns the description; what is left of the body is the archive.
func readAtticPath(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	inHeader, size := r.Header.Get(atticInfoHeader), r.Header.Get(atticPreambleHeader)
	if (inHeader == "") == (size == "") {
		return nil, badRequest("the path is to be described by one of the headers %s and %s", atticInfoHeader, atticPreambleHeader)
	}
	if inHeader != "" {
		return []byte(inHeader), nil
	}
	n, err := strconv.ParseUint(size, 10, 32)
	if err != nil || n == 0 || n > maxNarInfoBytes {
		return nil, badRequest("%s is %s: the description has 1 to %d bytes", atticPreambleHeader, quoted(size), maxNarInfoBytes)
	}
	limit := http.NewResponseController(w)
	setReadLimit(limit, leastTime)
	defer setReadLimit(limit, 0)
	text := make([]byte, n)
	if _, err := io.ReadFull(r.Body, text); err != nil {
		return nil, readError(err, "the upload broke off within the description")
	}
	return text, nil
}

// parseAtticPath checks all of a description that can be checked without the archive.
func parseAtticPath(text []byte) (*atticPath, *nar.NarInfo, error) {
	var p atticPath
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, nil, badRequest("the description of the path is not JSON of the form expected: %v", err)
	}
	dir, _, _, err := nar.SplitStorePath(p.StorePath)
	if err != nil {
		return nil, nil, badRequest("%v", err)
	}
	info := &nar.NarInfo{Compression: compressionZstd, PathInfo: nar.PathInfo{StorePath: p.StorePath, NarSize: p.NarSize, CA: p.CA, Sigs: p.Sigs}}
	if info.NarHash, err = nar.ParseHash(p.NarHash); err != nil {
		return nil, nil, badRequest("%v", err)
	}
	info.URL = narURL(info.NarHash)
	for _, base := range p.References {
		info.References = append(info.References, dir+"/"+base)
	}
	if p.Deriver != "" {
		info.Deriver = dir + "/" + p.Deriver
	}
	if err := info.Validate(); err != nil {
		return nil, nil, badRequest("%v", err)
	}
	return &p, info, nil
}
