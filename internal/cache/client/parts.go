package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/garrison-nix/garrison/internal/nar"
)

const (
	// packedBytes is how large an archive may be that is compressed before it is sent, which costs less than to do so meanwhile.
	packedBytes = 4 << 20
	// wholeBytes is how large an archive may be that is compressed while it is sent: what is no larger before, is hardly larger after.
	wholeBytes = 31 << 20
	// partBytes is how much one request sends at most: the most that reverse proxies are set up for as a rule.
	partBytes = 32 << 20
	// partsAtOnce is how many parts of one archive are sent at the same time.
	partsAtOnce = 3
)

// toGarrison uploads to Garrison's own cache: a small archive in one request while it is compressed, a large one in parts.
type toGarrison struct{ *push }

func (toGarrison) prepare(context.Context, string) error { return nil }

func (t toGarrison) upstreams(ctx context.Context) ([]nar.PublicKey, error) {
	info, err := t.c.info(ctx, "?settings")
	if err != nil {
		return nil, err
	}
	var keys []nar.PublicKey
	for _, s := range info.Upstreams {
		k, err := nar.ParsePublicKey(s)
		if err != nil {
			return nil, t.c.nonsense("ask for the keys of upstream caches", err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func narURL(h nar.Hash) string { return "nar/" + h.Nix32() + ".nar.zst" }

func (t toGarrison) putArchive(ctx context.Context, info *nar.PathInfo) error {
	if info.NarSize <= wholeBytes {
		return t.putUnchecked(ctx, info)
	}
	s, err := t.spooled(ctx, info)
	if err != nil {
		return err
	}
	defer s.Close()
	if s.size <= partBytes {
		return t.putWhole(ctx, info, s.whole())
	}
	return t.putInParts(ctx, info, s)
}

// putUnchecked sends an archive that the server alone looks into: hashing it here as well would be much of the work. Only of what is
// refused is it found out whether the path is damaged.
func (t toGarrison) putUnchecked(ctx context.Context, info *nar.PathInfo) error {
	write := func(to io.Writer) error { return t.unchecked(ctx, to, info) }
	content := func() body { return stream(write) }
	if info.NarSize <= packedBytes {
		b := t.buffer()
		defer t.buffers.Put(b)
		if err := t.c.try(ctx, "push "+info.StorePath, func() error { return b.fill(write) }); err != nil {
			return err
		}
		content = b.body
	}
	err := t.putWhole(ctx, info, content)
	var status *statusError
	if errors.As(err, &status) && status.status == http.StatusBadRequest {
		return cmp.Or(t.raw(ctx, io.Discard, info), err)
	}
	return err
}

func (t toGarrison) putWhole(ctx context.Context, info *nar.PathInfo, content func() body) error {
	_, err := t.c.do(ctx, request{
		what: "push " + info.StorePath, method: http.MethodPut, url: t.c.URL() + "/" + narURL(info.NarHash), contentType: "application/zstd", body: content,
	})
	if err == nil {
		t.arrived(info, 1, 1)
	}
	return err
}

func (t toGarrison) putInfo(ctx context.Context, info *nar.PathInfo) (differs bool, err error) {
	hash, err := nar.HashPart(info.StorePath)
	if err != nil {
		return false, unusable(err)
	}
	_, err = t.c.do(ctx, request{
		what: "push " + info.StorePath, method: http.MethodPut, url: t.c.URL() + "/" + hash + ".narinfo", contentType: narInfoType, body: fixedBody(narInfoOf(info)),
	})
	var status *statusError
	if errors.As(err, &status) && status.status == http.StatusConflict {
		return true, nil
	}
	return false, err
}

func narInfoOf(info *nar.PathInfo) []byte {
	return (&nar.NarInfo{PathInfo: *info, URL: narURL(info.NarHash), Compression: "zstd"}).Encode()
}

// maxTogether bounds the descriptions in one request, in bytes: a server takes 8 MiB.
const maxTogether = 2 << 20

func (t toGarrison) putInfos(ctx context.Context, infos []*nar.PathInfo) (differ []string, err error) {
	for len(infos) > 0 {
		var texts []string
		for bytes := 0; len(texts) < min(len(infos), infosTogether) && bytes < maxTogether; bytes += len(texts[len(texts)-1]) {
			texts = append(texts, string(narInfoOf(infos[len(texts)])))
		}
		some, err := t.putTexts(ctx, infos[:len(texts)], texts)
		if err != nil {
			return nil, err
		}
		differ, infos = append(differ, some...), infos[len(texts):]
	}
	return differ, nil
}

func (t toGarrison) putTexts(ctx context.Context, infos []*nar.PathInfo, texts []string) (differ []string, err error) {
	query, err := json.Marshal(map[string]any{"narinfos": texts})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Differ []string `json:"differ"`
	}
	err = t.c.getJSON(ctx, request{
		what: fmt.Sprintf("push %s and %d other paths", infos[0].StorePath, len(infos)-1), method: http.MethodPost, url: t.c.base + "/api/v1/caches/" + t.c.name + "/paths",
		contentType: "application/json", body: fixedBody(query),
	}, &answer)
	var status *statusError
	if !errors.As(err, &status) || status.status != http.StatusNotFound || status.kind != "NoSuchObject" {
		return answer.Differ, err
	}
	for _, info := range infos { // a server from before this could be done
		differs, err := t.putInfo(ctx, info)
		if err != nil {
			return nil, err
		}
		if differs {
			differ = append(differ, info.StorePath)
		}
	}
	return differ, nil
}

// upload is an archive on its way in parts.
type upload struct {
	t    toGarrison
	info *nar.PathInfo
	s    *spool
	url  string
}

// putInParts sends those parts that are not there from an earlier attempt, and has them put together. The upload is named by what the parts
// make when put together, so that an earlier attempt's are of use only if they are the very same. When they are not whole
// after all, because they were swept meanwhile or are damaged, it looks once more: the server keeps no damaged ones.
func (t toGarrison) putInParts(ctx context.Context, info *nar.PathInfo, s *spool) error {
	u := &upload{t, info, s, t.c.base + "/api/v1/caches/" + t.c.name + "/uploads/" + info.NarHash.Nix32() + "/" + s.hash.Nix32()}
	err := u.run(ctx)
	var status *statusError
	if !errors.As(err, &status) {
		return err
	}
	switch status.status {
	case http.StatusNotFound: // a server from before there were parts
		if status.kind == "NoSuchObject" {
			return t.putWhole(ctx, info, s.whole())
		}
	case http.StatusConflict, http.StatusBadRequest:
		return u.run(ctx)
	}
	return err
}

func (u *upload) run(ctx context.Context) error {
	var there struct {
		Parts []struct {
			Number int   `json:"number"`
			Size   int64 `json:"size"`
		} `json:"parts"`
	}
	what := "push " + u.info.StorePath + " in parts"
	if err := u.t.c.getJSON(ctx, request{what: what, method: http.MethodGet, url: u.url}, &there); err != nil {
		return err
	}
	u.t.arrived(u.info, 0, u.s.size)
	have := map[int]int64{}
	for _, p := range there.Parts {
		have[p.Number] = p.Size
	}
	n := int((u.s.size + partBytes - 1) / partBytes)
	var todo []int
	for i := range n {
		if have[i] == u.sizeOf(i) {
			u.t.arrived(u.info, u.sizeOf(i), u.s.size)
		} else {
			todo = append(todo, i)
		}
	}
	err := each(ctx, partsAtOnce, todo, func(ctx context.Context, _, i int) error {
		_, err := u.t.c.do(ctx, request{
			what: fmt.Sprintf("%s (part %d of %d)", what, i+1, n), method: http.MethodPut, url: fmt.Sprintf("%s/%d", u.url, i),
			contentType: "application/octet-stream", body: u.s.part(int64(i)*partBytes, u.sizeOf(i)),
		})
		if err == nil {
			u.t.arrived(u.info, u.sizeOf(i), u.s.size)
		}
		return err
	})
	if err != nil {
		return err
	}
	_, err = u.t.c.do(ctx, request{
		what: what, method: http.MethodPost, url: u.url, contentType: "application/json", body: fixedBody(fmt.Appendf(nil, `{"parts":%d}`, n)),
	})
	return err
}

// sizeOf is how large a part is: all but the last are of the same size.
func (u *upload) sizeOf(i int) int64 { return min(partBytes, u.s.size-int64(i)*partBytes) }
