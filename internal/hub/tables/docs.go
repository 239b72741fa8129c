package tables

import (
	"bytes"
	_ "embed"
	"encoding/json"

	"github.com/klauspost/compress/zstd"
)

// dictionary has what most documents have in common. It never changes: what was packed with it is read with it. A better one would be a second
// one, under a number of its own, beside this.
//
//go:embed documents-1.txt
var dictionary []byte

const dictionaryID = 1

// maxDoc bounds a document, in bytes, so that a damaged one does not take the memory.
const maxDoc = 16 << 20

// magic is what every packed document begins with, and no text does.
const magic = "\x28\xb5\x2f\xfd"

// docs packs documents (JSON) and logs by zstd with a dictionary. What does not begin with magic is not packed.
type docs struct {
	in  *zstd.Encoder
	out *zstd.Decoder
}

func newDocs() (*docs, error) {
	in, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithEncoderDictRaw(dictionaryID, dictionary), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	out, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxDoc), zstd.WithDecoderDictRaw(dictionaryID, dictionary))
	return &docs{in, out}, err
}

func (d *docs) pack(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return d.packText(text), nil
}

func (d *docs) packText(text []byte) []byte { return d.in.EncodeAll(text, nil) }

func (d *docs) unpack(packed []byte, v any) error {
	text, err := d.text(packed)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func (d *docs) text(packed []byte) ([]byte, error) {
	if !bytes.HasPrefix(packed, []byte(magic)) {
		return packed, nil
	}
	return d.out.DecodeAll(packed, nil)
}

// blank is a document that is written once its ID is known.
func blank() []byte { return []byte("{}") }
