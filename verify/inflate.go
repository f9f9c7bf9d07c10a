package verify

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/reseal/reseal/inventory"
)

// maxInflated bounds what compressed content may become, in bytes, and
// maxInflating how much of it is in memory at once.
const (
	maxInflated  = 16 << 20
	maxInflating = 2
)

// inflate returns the content that cosign sees in a layer: it uncompresses
// layers that begin as gzip or zstd does, whatever their media type says
// (go-containerregistry, Layer.Uncompressed), so that a signature may be hidden
// in one. Files are taken as they are.
func inflate(f inventory.Format, content []byte) ([]byte, error) {
	if !compressed(f, content) {
		return content, nil
	}
	var r io.Reader
	if bytes.HasPrefix(content, gzipMagic) {
		z, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			return nil, fmt.Errorf("it is compressed and cannot be uncompressed: %s", brief(err.Error()))
		}
		defer z.Close()
		r = z
	} else {
		z, err := zstd.NewReader(bytes.NewReader(content), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxInflated))
		if err != nil {
			return nil, fmt.Errorf("it is compressed and cannot be uncompressed: %s", brief(err.Error()))
		}
		defer z.Close()
		r = z
	}
	out, err := io.ReadAll(io.LimitReader(r, maxInflated+1))
	if err != nil {
		return nil, fmt.Errorf("it is compressed and cannot be uncompressed: %s", brief(err.Error()))
	}
	if len(out) > maxInflated {
		return nil, fmt.Errorf("it is compressed, and larger than %d bytes when it is not", maxInflated)
	}
	return out, nil
}

// How gzip (RFC 1952 section 2.3.1) and zstd (RFC 8878 section 3.1.1) begin. No
// JSON does.
var gzipMagic, zstdMagic = []byte{0x1f, 0x8b}, []byte{0x28, 0xb5, 0x2f, 0xfd}

func compressed(f inventory.Format, content []byte) bool {
	return !f.InFiles() && (bytes.HasPrefix(content, gzipMagic) || bytes.HasPrefix(content, zstdMagic))
}
