// The Flex Consumption plan and the app on it, with every app setting.

param planName string
param name string
param location string
param tags object
param pythonVersion string
param instanceMemoryMB int
param maximumInstanceCount int

@description('Channel groups (capture1, capture2, …) whose timer function keeps an instance of its own warm.')
param alwaysReadyGroups array

param identityId string
param identityClientId string
param hostBlobServiceUri string
param packageContainer string
param dataBlobServiceUri string

@description('Resource id of the subnet that the app reaches everything through; empty leaves it in the public network.')
param subnetId string

param applicationInsightsConnectionString string

param loginUrl string
param clientId string

@description('The user of the JWT bearer flow; empty chooses the client credentials flow.')
param username string

@description('URI of the secret without a version, so that a rotated one is picked up.')
param secretUri string

param apiVersion string
param channels string
param schedule string
param runSeconds int
param silenceCheckMinutes int
param start string
param onReplayExpired string
param eventsContainer string
param checkpointsContainer string

var secretReference = '@Microsoft.KeyVault(SecretUri=${secretUri})'

var commonSettings = {
  // The host's own: storage by identity, telemetry by identity. It reads no key and no connection string.
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
  AzureWebJobsStorage__blobServiceUri: hostBlobServiceUri
  APPLICATIONINSIGHTS_CONNECTION_STRING: applicationInsightsConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
  // The app's: each of these is read by cdc/settings.py.
  SALESFORCE_LOGIN_URL: loginUrl
  SALESFORCE_CLIENT_ID: clientId
  SALESFORCE_API_VERSION: apiVersion
  CDC_CHANNELS: channels
  CDC_SCHEDULE: schedule
  CDC_RUN_SECONDS: string(runSeconds)
  CDC_SILENCE_CHECK_MINUTES: string(silenceCheckMinutes)
  CDC_START: start
  CDC_ON_REPLAY_EXPIRED: onReplayExpired
  CDC_STORAGE__blobServiceUri: dataBlobServiceUri
  CDC_STORAGE__clientId: identityClientId
  CDC_EVENTS_CONTAINER: eventsContainer
  CDC_CHECKPOINTS_CONTAINER: checkpointsContainer
}

var clientCredentialsSettings = {
  SALESFORCE_CLIENT_SECRET: secretReference
}

var jwtBearerSettings = {
  SALESFORCE_USERNAME: username
  SALESFORCE_PRIVATE_KEY: secretReference
}

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
  }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: name
  location: location
  tags: tags
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: identityId
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: {
      ftpsState: 'Disabled'
      minTlsVersion: '1.2'
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${hostBlobServiceUri}${packageContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: {
        name: 'python'
        version: pythonVersion
      }
      // Each timer function scales by itself, and the host runs it on one instance at a time: more than one is never busy.
      // The HTTP functions, status and health, are one more group ('http'), which has no instance while nobody calls.
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        alwaysReady: [for group in alwaysReadyGroups: { name: 'function:${group}', instanceCount: 1 }]
      }
    }
  }

  // Deploying takes an Entra token; the user names and passwords of old are refused.
  resource basicFtp 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: {
      allow: false
    }
  }

  resource basicScm 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: {
      allow: false
    }
  }

  resource settings 'config' = {
    name: 'appsettings'
    properties: union(commonSettings, empty(username) ? clientCredentialsSettings : jwtBearerSettings)
  }
}

output name string = app.name
output id string = app.id
