// Command image-policy asks the policy engine that Podman, Skopeo and CRI-O share
// whether it takes an image: it copies docker://IMAGE to a directory, as
// "skopeo copy" does, by the policy and the registries.d directory given, and
// exits with 0 if the policy accepts the image and with 1 if not. To docker://IMAGE
// it copies with all signatures, and signs as "podman push" does when told to.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/containers/image/v5/copy"
	"github.com/containers/image/v5/directory"
	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
)

func main() {
	file := flag.String("policy", "", "policy.json `FILE`")
	registries := flag.String("registries.d", "", "`DIRECTORY` that says where signatures are")
	to := flag.String("to", "", "`DIRECTORY` or docker://IMAGE to copy to")
	key := flag.String("sign-by-sigstore-private-key", "", "sign what was copied to docker://IMAGE with the key in `FILE` (COSIGN_PASSWORD)")
	flag.Parse()
	if *file == "" || *to == "" || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(context.Background(), *file, *registries, *key, flag.Arg(0), *to); err != nil {
		fmt.Fprintln(os.Stderr, "image-policy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, file, registries, key, image, to string) error {
	source, err := docker.ParseReference("//" + image)
	if err != nil {
		return err
	}
	other, isImage := strings.CutPrefix(to, "docker://")
	var target types.ImageReference
	if isImage {
		target, err = docker.ParseReference("//" + other)
	} else {
		target, err = directory.NewReference(to)
	}
	if err != nil {
		return err
	}
	policy, err := signature.NewPolicyFromFile(file)
	if err != nil {
		return err
	}
	engine, err := signature.NewPolicyContext(policy)
	if err != nil {
		return err
	}
	defer engine.Destroy() //nolint:errcheck // the process ends
	system := &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue, RegistriesDirPath: registries}
	_, err = copy.Image(ctx, engine, target, source, &copy.Options{
		RemoveSignatures:                 !isImage, // a directory cannot hold them; they are looked at all the same
		SourceCtx:                        system,
		DestinationCtx:                   system,
		PreserveDigests:                  true,
		SignBySigstorePrivateKeyFile:     key,
		SignSigstorePrivateKeyPassphrase: []byte(os.Getenv("COSIGN_PASSWORD")),
	})
	return err
}
