// Command image-policy asks the policy engine that Podman, Skopeo and CRI-O share
// whether it takes an image: it copies docker://IMAGE to a directory, as
// "skopeo copy" does, by the policy and the registries.d directory given, and
// exits with 0 if the policy accepts the image and with 1 if not.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/containers/image/v5/copy"
	"github.com/containers/image/v5/directory"
	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
)

func main() {
	file := flag.String("policy", "", "policy.json `FILE`")
	registries := flag.String("registries.d", "", "`DIRECTORY` that says where signatures are")
	to := flag.String("to", "", "`DIRECTORY` to copy to")
	flag.Parse()
	if *file == "" || *to == "" || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(context.Background(), *file, *registries, *to, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "image-policy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, file, registries, to, image string) error {
	source, err := docker.ParseReference("//" + image)
	if err != nil {
		return err
	}
	target, err := directory.NewReference(to)
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
	_, err = copy.Image(ctx, engine, target, source, &copy.Options{
		RemoveSignatures: true, // a directory cannot hold them; they are looked at all the same
		SourceCtx:        &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue, RegistriesDirPath: registries},
	})
	return err
}
