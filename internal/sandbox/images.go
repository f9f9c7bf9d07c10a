package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// platforms are those of an index.
var platforms = []v1.Platform{
	{OS: "linux", Architecture: "amd64"},
	{OS: "linux", Architecture: "arm64"},
}

// PushImage pushes a linux/amd64 image of one tiny layer, whose digest depends
// on the seed alone. An empty tag pushes by digest only.
func (w *World) PushImage(ctx context.Context, repo, tag, seed string) (name.Digest, error) {
	img, err := makeImage(seed, platforms[0])
	if err != nil {
		return name.Digest{}, fmt.Errorf("sandbox: making image %q: %w", seed, err)
	}
	hash, err := img.Digest()
	if err != nil {
		return name.Digest{}, fmt.Errorf("sandbox: making image %q: %w", seed, err)
	}
	return w.push(repo, tag, hash, func(ref name.Reference) error {
		return remote.Write(ref, img, w.remoteOptions(ctx)...)
	})
}

// PushIndex pushes an index of two images (linux/amd64, linux/arm64), whose
// digest depends on the seed alone. An empty tag pushes by digest only.
func (w *World) PushIndex(ctx context.Context, repo, tag, seed string) (name.Digest, error) {
	index := v1.ImageIndex(empty.Index)
	for _, p := range platforms {
		img, err := makeImage(seed, p)
		if err != nil {
			return name.Digest{}, fmt.Errorf("sandbox: making index %q: %w", seed, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p.DeepCopy()}})
	}
	hash, err := index.Digest()
	if err != nil {
		return name.Digest{}, fmt.Errorf("sandbox: making index %q: %w", seed, err)
	}
	return w.push(repo, tag, hash, func(ref name.Reference) error {
		return remote.WriteIndex(ref, index, w.remoteOptions(ctx)...)
	})
}

func (w *World) push(repo, tag string, hash v1.Hash, write func(name.Reference) error) (name.Digest, error) {
	r, err := name.NewRepository(w.registry + "/" + repo)
	if err != nil {
		return name.Digest{}, fmt.Errorf("sandbox: repository: %w", err)
	}
	digest := r.Digest(hash.String())
	var ref name.Reference = digest
	if tag != "" {
		if ref, err = name.NewTag(r.Name() + ":" + tag); err != nil {
			return name.Digest{}, fmt.Errorf("sandbox: tag: %w", err)
		}
	}
	if err := write(ref); err != nil {
		return name.Digest{}, fmt.Errorf("sandbox: pushing %s: %w", ref, err)
	}
	return digest, nil
}

// makeImage makes an image for a platform. Platforms differ in the config
// only.
func makeImage(seed string, p v1.Platform) (v1.Image, error) {
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "seed", Mode: 0o644, Size: int64(len(seed))}); err != nil {
		return nil, err
	}
	if _, err := tw.Write([]byte(seed)); err != nil {
		return nil, err
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	// Uncompressed, so that the layer's digest is also its DiffID.
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer))
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = p.OS, p.Architecture
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return nil, err
	}
	return mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON), nil
}

// remoteOptions are for the sandbox's registry: no credentials of the user
// are read or sent. There is deliberately no shared pusher: it remembers what
// it uploaded, and scenarios delete.
func (w *World) remoteOptions(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuth(authn.Anonymous)}
}

// checkLoopback refuses to write to a registry on another machine: an actor
// may be a thief.
func checkLoopback(ref name.Digest) error {
	host := ref.RegistryStr()
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("registry %q is not on this machine", ref.RegistryStr())
}
