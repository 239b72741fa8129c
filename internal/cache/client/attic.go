package client

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/garrison-nix/garrison/internal/nar"
)

// NixOSKey is the public key of cache.nixos.org.
const NixOSKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

// toAttic uploads to a server that speaks Attic's API: a path and its archive in one request. The server does not look at
// references; here too a path is only uploaded after those that it refers to.
type toAttic struct{ *push }

// AtticConfig is what a Garrison or Attic server says of a cache to who is to use it.
type AtticConfig struct {
	Substituter string   `json:"substituter_endpoint"`
	PublicKey   string   `json:"public_key"`
	IsPublic    bool     `json:"is_public"`
	Upstreams   []string `json:"upstream_cache_key_names"`
}

// Config asks a Garrison or Attic server how the cache is used.
func (c *Client) Config(ctx context.Context) (AtticConfig, error) {
	var config AtticConfig
	err := c.getJSON(ctx, request{what: "ask how the cache is used", method: http.MethodGet, url: c.base + "/_api/v1/cache-config/" + c.name}, &config)
	return config, err
}

func (toAttic) prepare(context.Context, string) error { return nil }

// upstreams are the keys that the server names and that are known: a name alone says nothing.
func (t toAttic) upstreams(ctx context.Context) ([]nar.PublicKey, error) {
	config, err := t.c.Config(ctx)
	if err != nil {
		return nil, err
	}
	key, err := nar.ParsePublicKey(NixOSKey)
	if err != nil || !slices.Contains(config.Upstreams, key.Name) {
		return nil, err
	}
	return []nar.PublicKey{key}, nil
}

func (toAttic) putArchive(context.Context, *nar.PathInfo) error { return nil }

// maxHeader is how much of a path's description is sent in a header; what is larger goes before the archive.
const maxHeader = 4 << 10

func (t toAttic) putInfo(ctx context.Context, info *nar.PathInfo) (differs bool, err error) {
	if t.noArchive[info] { // an upstream's
		return false, nil
	}
	text, err := t.describe(info)
	if err != nil {
		return false, unusable(err)
	}
	header, preamble := http.Header{}, []byte(nil)
	if len(text) < maxHeader {
		header.Set("X-Attic-Nar-Info", string(text))
	} else {
		header.Set("X-Attic-Nar-Info-Preamble-Size", strconv.Itoa(len(text)))
		preamble = text
	}
	_, err = t.c.do(ctx, request{
		what: "push " + info.StorePath, method: http.MethodPut, url: t.c.base + "/_api/v1/upload-path",
		contentType: "application/octet-stream", header: header,
		body: func() body {
			return stream(func(w io.Writer) error {
				if _, err := w.Write(preamble); err != nil {
					return err
				}
				return t.raw(ctx, w, info)
			})
		},
	})
	return false, err
}

// describe is a path's description as Attic wants it, in ASCII.
func (t toAttic) describe(info *nar.PathInfo) ([]byte, error) {
	hash, err := nar.HashPart(info.StorePath)
	if err != nil {
		return nil, err
	}
	references := make([]string, len(info.References))
	for i, r := range info.References {
		references[i] = path.Base(r)
	}
	return json.Marshal(struct {
		Cache      string   `json:"cache"`
		Hash       string   `json:"store_path_hash"`
		StorePath  string   `json:"store_path"`
		References []string `json:"references"`
		System     *string  `json:"system"`
		Deriver    *string  `json:"deriver"`
		Sigs       []string `json:"sigs"`
		CA         *string  `json:"ca"`
		NarHash    string   `json:"nar_hash"`
		NarSize    int64    `json:"nar_size"`
	}{
		t.c.name, hash, info.StorePath, references, nil, optional(strings.TrimPrefix(path.Base(info.Deriver), ".")), append([]string{}, info.Sigs...), optional(info.CA),
		"sha256:" + hex.EncodeToString(info.NarHash[:]), info.NarSize,
	})
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
