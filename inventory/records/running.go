package records

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/inventory"
)

// Running is an artifact that is in use somewhere.
type Running struct {
	Repository string `json:"repository,omitempty"` // as go-containerregistry names it: "index.docker.io/library/nginx"; empty for a bare digest
	Digest     string `json:"digest,omitempty"`     // "sha256:<hex>" of the manifest or index; empty when undetermined
	Namespace  string `json:"namespace,omitempty"`
	Pod        string `json:"pod,omitempty"`
	Container  string `json:"container,omitempty"` // or the volume that is an image
	Why        string `json:"why,omitempty"`       // why the digest is undetermined
}

// List reads a plain list of what runs: one "repository@sha256:<hex>" or bare
// digest a line. Lines that start with # are comments.
func List(r io.Reader) iter.Seq2[Running, error] {
	return func(yield func(Running, error) bool) {
		for l, err := range lines(bufio.NewReaderSize(r, maxLine), maxLine) {
			var run Running
			if err == nil {
				if l.text[0] == '#' {
					continue
				}
				if run, err = reference(string(l.text)); err != nil {
					run, err = Running{}, fmt.Errorf("line %d: %w", l.number, err)
				}
			}
			if !yield(run, err) {
				return
			}
		}
	}
}

// reference reads "repository@sha256:<hex>" or a bare digest. A tag before the
// digest says nothing.
func reference(text string) (Running, error) {
	at := strings.LastIndexByte(text, '@')
	digest := text[at+1:]
	if err := inventory.CheckDigest(digest); err != nil {
		return Running{}, fmt.Errorf("%.200q: %w", text, err)
	}
	if at < 0 {
		return Running{Digest: digest}, nil
	}
	d, err := name.NewDigest(text)
	if err != nil {
		return Running{}, fmt.Errorf("%.200q: %w", text, err)
	}
	return Running{Repository: d.Context().Name(), Digest: digest}, nil
}

// Pods reads what runs in a cluster from JSON of Kubernetes pods, as "kubectl
// get pods -A -o json" prints them: a List of any length, pods one after the
// other, or one pod. Objects of other kinds are passed over.
//
// Each container gives the digest that its runtime reports (imageID in the
// status), in the repository it reports and, where that is another one, in the
// repository the pod asked for too: runtimes report any repository they know
// the digest from. An image by digest in the specification is given as well; it
// may be the index of which the runtime reports a manifest. So is the image of
// a volume. A container whose digest nothing tells is given without one, with
// the reason: an imageID that is a bare digest is the digest of the image's
// configuration, which no registry lists.
//
// Init containers and pods that are done are given too: what ran may run again.
func Pods(r io.Reader) iter.Seq2[Running, error] {
	return func(yield func(Running, error) bool) {
		for e, err := range entries(r, "items") {
			if err == nil {
				var list []Running
				if list, err = podImages(e.object); err == nil {
					for _, run := range list {
						if !yield(run, nil) {
							return
						}
					}
					continue
				}
				err = fmt.Errorf("%s: %w", e.at, err)
			}
			if !yield(Running{}, err) {
				return
			}
		}
	}
}

// pod is what of a Pod (core/v1) tells which images run.
type pod struct {
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		InitContainers      []container `json:"initContainers"`
		Containers          []container `json:"containers"`
		EphemeralContainers []container `json:"ephemeralContainers"`
		Volumes             []struct {
			Name  string `json:"name"`
			Image *struct {
				Reference string `json:"reference"`
			} `json:"image"`
		} `json:"volumes"`
	} `json:"spec"`
	Status struct {
		InitContainers      []containerStatus `json:"initContainerStatuses"`
		Containers          []containerStatus `json:"containerStatuses"`
		EphemeralContainers []containerStatus `json:"ephemeralContainerStatuses"`
	} `json:"status"`
}

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}

type containerStatus struct {
	Name    string `json:"name"`
	ImageID string `json:"imageID"`
}

func podImages(object json.RawMessage) ([]Running, error) {
	var kind struct {
		Kind string          `json:"kind"`
		Spec json.RawMessage `json:"spec"`
	}
	if err := unmarshal(object, &kind); err != nil {
		return nil, err
	}
	switch {
	case kind.Kind == "" && kind.Spec == nil:
		return nil, errors.New("it is no Kubernetes object: kind is missing")
	case kind.Kind != "" && kind.Kind != "Pod": // the items of a PodList have no kind
		return nil, nil
	}
	var p pod
	if err := unmarshal(object, &p); err != nil {
		return nil, err
	}
	of := Running{Namespace: p.Metadata.Namespace, Pod: p.Metadata.Name}
	for _, text := range []string{of.Namespace, of.Pod} {
		if err := checkText("name", text); err != nil {
			return nil, err
		}
	}
	reported := map[string]string{}
	var containers []container
	for _, list := range [][]containerStatus{p.Status.InitContainers, p.Status.Containers, p.Status.EphemeralContainers} {
		for _, s := range list {
			reported[s.Name] = s.ImageID
		}
	}
	for _, list := range [][]container{p.Spec.InitContainers, p.Spec.Containers, p.Spec.EphemeralContainers} {
		containers = append(containers, list...)
	}
	if len(containers) == 0 {
		return nil, errors.New("spec.containers is missing: without it nothing tells what runs")
	}
	var out []Running
	for _, c := range containers {
		of.Container = c.Name
		out = append(out, images(of, c.Image, reported[c.Name])...)
	}
	for _, v := range p.Spec.Volumes {
		if v.Image != nil {
			of.Container = v.Name
			out = append(out, images(of, v.Image.Reference, "")...)
		}
	}
	for _, r := range out {
		if err := checkText("container name", r.Container); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// images says what a container runs, from the image it asks for and what its
// runtime reports.
func images(of Running, image, imageID string) []Running {
	var out []Running
	add := func(repository, digest string) {
		r := of
		r.Repository, r.Digest = repository, digest
		for _, known := range out {
			if known == r {
				return
			}
		}
		out = append(out, r)
	}
	if ref, err := name.ParseReference(image); err == nil && !strings.HasPrefix(image, "sha256:") {
		of.Repository = ref.Context().Name()
	}
	// Docker writes "docker-pullable://" before what can be pulled, "docker://" before what cannot.
	_, id, hasScheme := strings.Cut(imageID, "://")
	if !hasScheme {
		id = imageID
	}
	run, err := reference(id)
	if err == nil && run.Repository != "" {
		add(run.Repository, run.Digest)
		if of.Repository != "" {
			add(of.Repository, run.Digest)
		}
	}
	if asked, err := reference(image); err == nil && asked.Repository != "" {
		add(asked.Repository, asked.Digest)
	}
	if len(out) > 0 {
		return out
	}
	switch {
	case imageID == "":
		of.Why = fmt.Sprintf("it runs %.200q, which names no digest, and no runtime reports one", image)
	case err == nil:
		of.Why = fmt.Sprintf("it runs %.200q, which names no digest, and its runtime reports only that of the image's configuration", image)
	default:
		of.Why = fmt.Sprintf("it runs %.200q, which names no digest, and its runtime reports %.200q, which is none", image, imageID)
	}
	return []Running{of}
}
