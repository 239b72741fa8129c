package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/garrison-nix/garrison/internal/nar"
)

const (
	listingSuffix = ".ls"
	// maxListingBytes is the largest listing that a client may send, which is not kept.
	maxListingBytes = 64 << 20
)

// listingKey is where the listing of the archive that is stored as blob is kept.
func listingKey(blob string) string { return strings.TrimSuffix(blob, narSuffix) + listingKeySuffix }

// serveListing serves the listing of an archive. It is made when it is first asked for, and kept as long as the archive.
func (s *Server) serveListing(w http.ResponseWriter, r *http.Request, n Nar) error {
	key := listingKey(n.Blob)
	err := s.ensureListing(r.Context(), key, n)
	if errors.Is(err, nar.ErrNoListing) {
		return noSuchObject(r.PathValue("file"))
	}
	if err != nil {
		return err
	}
	return s.serveText(w, r, key, "application/json")
}

func (s *Server) ensureListing(ctx context.Context, key string, n Nar) error {
	defer s.locks.lock(listingSuffix)() // reading whole archives is not done many times at once
	_, ok, err := s.Blobs.Stat(ctx, key)
	if err != nil || ok {
		return err
	}
	f, err := s.Blobs.Open(ctx, n.Blob)
	if err != nil {
		return err
	}
	defer f.Close()
	inside, done, err := s.unzstd(readerUntil{ctx, f})
	if err != nil {
		return err
	}
	defer done()
	return s.Blobs.Put(ctx, key, func(to io.Writer) error {
		return s.zstdTo(to, func(z io.Writer) error {
			got, err := nar.List(inside, n.NarSize, z)
			if err == nil && got.Hash != n.NarHash {
				err = fmt.Errorf("the archive that is stored as %s is damaged: run `garrison cache fsck`", n.Blob)
			}
			return err
		})
	})
}

// readerUntil reads until ctx ends.
type readerUntil struct {
	ctx context.Context
	r   io.Reader
}

func (u readerUntil) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}

// skipListing takes a listing that Nix made and forgets it: ours is made of the archive that was verified.
func (s *Server) skipListing(w http.ResponseWriter, r *http.Request) error {
	body := &patientReader{r: http.MaxBytesReader(w, r.Body, maxListingBytes), w: http.NewResponseController(w)}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return readError(err, "the upload broke off")
	}
	return nil
}
