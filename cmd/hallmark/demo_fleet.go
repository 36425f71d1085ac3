package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/device"
	"hallmark/fleet/registry"
	"hallmark/internal/durable"
	"hallmark/provisioner"
)

// What the stage calls things.
const (
	demoGroup  = "demo"
	demoPolicy = "demo-device" // of every device, however it came in
	demoFleet  = "demo-fleet"  // the template of those that come with the claim certificate
)

// demoPolicyDocument allows a device to be itself, its own reserved topics and
// dt/THING/, and nothing else. What it does with its shadow and jobs over HTTPS
// is the same right in other words.
const demoPolicyDocument = `{"Version":"2012-10-17","Statement":[
  {"Effect":"Allow","Action":"iot:Connect","Resource":"arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}",
   "Condition":{"Bool":{"iot:Connection.Thing.IsAttached":"true"}}},
  {"Effect":"Allow","Action":["iot:Publish","iot:Receive"],
   "Resource":["arn:aws:iot:*:*:topic/$aws/things/${iot:Connection.Thing.ThingName}/*","arn:aws:iot:*:*:topic/dt/${iot:Connection.Thing.ThingName}/*"]},
  {"Effect":"Allow","Action":"iot:Subscribe",
   "Resource":["arn:aws:iot:*:*:topicfilter/$aws/things/${iot:Connection.Thing.ThingName}/*","arn:aws:iot:*:*:topicfilter/dt/${iot:Connection.Thing.ThingName}/*"]},
  {"Effect":"Allow","Action":["iot:GetThingShadow","iot:UpdateThingShadow","iot:DeleteThingShadow"],
   "Resource":["arn:aws:iot:*:*:thing/${iot:Connection.Thing.ThingName}","arn:aws:iot:*:*:thing/${iot:Connection.Thing.ThingName}/*"]},
  {"Effect":"Allow","Action":["iotjobsdata:DescribeJobExecution","iotjobsdata:GetPendingJobExecutions","iotjobsdata:StartNextPendingJobExecution","iotjobsdata:UpdateJobExecution"],
   "Resource":"arn:aws:iot:*:*:thing/${iot:Connection.Thing.ThingName}"}
]}`

// demoTemplate turns a birth certificate into a thing.
const demoTemplate = `{
  "Parameters": {"AWS::IoT::Certificate::SerialNumber": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {
      "ThingName": {"Ref": "AWS::IoT::Certificate::SerialNumber"},
      "AttributePayload": {"serial": {"Ref": "AWS::IoT::Certificate::SerialNumber"}, "product": "demo-lamp"},
      "ThingGroups": ["` + demoGroup + `"]}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "` + demoPolicy + `"}}
  },
  "DeviceConfiguration": {"endpoint": "%s", "report_interval_seconds": "300"}
}`

// demoFleetBody turns a device that came with the claim certificate into a thing.
const demoFleetBody = `{
  "Parameters": {"SerialNumber": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {
      "ThingName": {"Ref": "SerialNumber"},
      "AttributePayload": {"serial": {"Ref": "SerialNumber"}, "product": "demo-sensor"},
      "ThingGroups": ["` + demoGroup + `"]}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "` + demoPolicy + `"}}
  },
  "DeviceConfiguration": {"endpoint": "%s", "report_interval_seconds": "300"}
}`

// devicePolicy stores the policy that the templates name.
func (d *stage) devicePolicy(ctx context.Context) error {
	_, err := d.server.reged.CreatePolicy(ctx, registry.Policy{Tenant: access.DefaultTenant, Name: demoPolicy, Document: demoPolicyDocument})
	return err
}

// registerFleet registers the issuing CA, and lets devices with a claim
// certificate provision themselves. The CA registers nobody at the door by
// itself: its devices come through first boot, or with a claim.
func (d *stage) registerFleet(ctx context.Context) error {
	s := d.server
	for _, a := range s.ca.Authorities() {
		if a.Name != "device-1" {
			continue
		}
		if _, err := s.reged.RegisterCA(ctx, registry.CARegistration{Tenant: access.DefaultTenant, Certificate: a.Cert, Authority: a.Name, Active: true}); err != nil {
			return err
		}
	}
	if _, err := s.reged.CreateGroup(ctx, registry.Group{Tenant: access.DefaultTenant, Class: registry.ThingGroup, Name: demoGroup}); err != nil {
		return err
	}
	body := fmt.Sprintf(demoFleetBody, s.publicAddr("mqtt"))
	if err := s.planner.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: access.DefaultTenant, Name: demoFleet, Kind: provisioner.FleetKind, Body: []byte(body)}); err != nil {
		return err
	}
	if err := s.planner.PutFleetTemplate(ctx, s.db, provisioner.FleetTemplate{Tenant: access.DefaultTenant, Name: demoFleet, Enabled: true}); err != nil {
		return err
	}
	return d.claim(ctx, demoFleet, "claim")
}

// claim makes a claim certificate for a template, in fleet/NAME.pem and .key.
func (d *stage) claim(ctx context.Context, template, name string) error {
	bob := access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "bob", Role: access.SecurityOfficer}
	c, err := d.server.fleet.claims.CreateClaim(access.WithActor(ctx, bob), bob, bootstrap.ClaimRequest{Name: name, Template: template, Most: 100_000, Outstanding: 1000})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.path("fleet"), 0o700); err != nil {
		return err
	}
	chain := []byte(c.CertificatePEM)
	for _, der := range c.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return errors.Join(durable.WriteFile(d.path("fleet", name+".key"), []byte(c.PrivateKeyPEM), 0o600), durable.WriteFile(d.path("fleet", name+".pem"), chain, 0o644))
}

// demoConnected is how many devices the demo keeps connected.
const demoConnected = 3

// agents runs the reference agent for a few devices and waits until they are
// connected. They end with ctx; wait returns when they have.
func agents(ctx context.Context, devices []device.Config, endpoint string) (wait func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	up, failed := make(chan string, len(devices)), make(chan error, len(devices))
	for _, c := range devices {
		var once sync.Once
		wg.Go(func() {
			err := device.Run(ctx, device.RunConfig{Config: c, Endpoint: endpoint, Grace: time.Second, Event: func(e device.Event) {
				if e.Event == device.EventConnected {
					once.Do(func() { up <- c.Dir })
				}
			}})
			if err != nil {
				failed <- fmt.Errorf("the agent of %s: %w", filepath.Base(c.Dir), err)
			}
		})
	}
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for range devices {
		select {
		case <-up:
			continue
		case err = <-failed:
		case <-late.C:
			err = errors.New("the devices did not connect within 30 s")
		case <-ctx.Done():
			err = ctx.Err()
		}
		cancel()
		wg.Wait()
		return nil, err
	}
	return func() { cancel(); wg.Wait() }, nil
}
