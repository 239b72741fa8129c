package cache

import (
	"encoding/binary"
	"hash/crc32"
	"io"
)

// storedXz writes r as an xz file without compressing it: Nix asks for what it once pushed by its name of then, and takes it for that.
// (The .xz file format, version 1.1; LZMA2 has chunks that are copied.)
func storedXz(w io.Writer, r io.Reader) error {
	const chunk = 64 << 10
	flags := []byte{0, 1} // checked by CRC32
	header := append([]byte("\xfd7zXZ\x00"), flags...)
	header = append(header, crc(flags)...)
	block := []byte{2, 0, 0x21, 1, 0, 0, 0, 0} // 12 bytes, one filter: LZMA2 with the smallest dictionary
	x := &xzFile{w: w}
	x.write(header)
	x.write(block)
	x.write(crc(block))
	start := x.n
	sum, size, buf := crc32.NewIEEE(), int64(0), make([]byte, 3+chunk)
	for first := byte(1); x.err == nil; first = 2 { // 1 resets the dictionary
		n, err := io.ReadFull(r, buf[3:])
		if n > 0 {
			buf[0] = first
			binary.BigEndian.PutUint16(buf[1:], uint16(n-1))
			x.write(buf[:3+n])
			sum.Write(buf[3 : 3+n])
			size += int64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	x.write([]byte{0})
	unpadded := x.n - start + int64(len(block)) + 4 + 4
	x.pad(start)
	x.write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	x.end(unpadded, size, flags)
	return x.err
}

// xzFile counts what is written, and remembers the first error.
type xzFile struct {
	w   io.Writer
	n   int64
	err error
}

func (x *xzFile) write(b []byte) {
	if x.err == nil {
		_, x.err = x.w.Write(b)
		x.n += int64(len(b))
	}
}

// pad fills up what was written since start to a multiple of four bytes.
func (x *xzFile) pad(start int64) { x.write(make([]byte, -(x.n-start)&3)) }

// end writes the index of one block, and the footer.
func (x *xzFile) end(unpadded, size int64, flags []byte) {
	index := binary.AppendUvarint(binary.AppendUvarint([]byte{0, 1}, uint64(unpadded)), uint64(size))
	index = append(index, make([]byte, -len(index)&3)...)
	x.write(index)
	x.write(crc(index))
	footer := append(binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4)), flags...) // of index and CRC, in words, less one
	x.write(crc(footer))
	x.write(footer)
	x.write([]byte("YZ"))
}

func crc(b []byte) []byte { return binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(b)) }
