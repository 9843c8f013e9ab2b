// Everything that one environment needs, in one resource group: `azd up`, or `az deployment group create`.

targetScope = 'resourceGroup'

// --- the place ---------------------------------------------------------------------------------------------------------

@description('Name of this environment, like prod or test: part of names and a tag.')
@minLength(1)
@maxLength(20)
param environmentName string

@description('Region; one that offers Flex Consumption (az functionapp list-flexconsumption-locations).')
param location string = resourceGroup().location

@description('Name of the function app: its host name, so unique in all of Azure.')
@minLength(2)
@maxLength(60)
param functionAppName string = 'func-cdc-${environmentName}-${uniqueString(resourceGroup().id, environmentName)}'

@description('Name of the storage account for events and checkpoints.')
@minLength(3)
@maxLength(24)
param dataAccountName string = 'cdcdata${uniqueString(resourceGroup().id, environmentName)}'

// --- Salesforce --------------------------------------------------------------------------------------------------------

@description('My Domain URL of the org, like https://acme.my.salesforce.com')
param salesforceLoginUrl string

@description('Consumer key of the External Client App.')
param salesforceClientId string

@description('User of the JWT bearer flow; empty chooses the client credentials flow.')
param salesforceUsername string = ''

@description('Client secret, or with salesforceUsername the private key as PEM. Empty: it is put into the vault by hand, or there already.')
@secure()
param salesforceSecret string = ''

@description('API version of the session.')
param salesforceApiVersion string = '66.0'

// --- what is captured --------------------------------------------------------------------------------------------------

@description('Channels, separated by commas; a semicolon starts another group with a timer function and a session of its own.')
@minLength(1)
param channels string

@description('When a run starts: NCRONTAB, UTC.')
param schedule string = '0 */5 * * * *'

@description('How long a run listens, in seconds. With 15 s to end it must stay below functionTimeout in host.json.')
@minValue(1)
@maxValue(524)
param runSeconds int = 260

@description('After how many silent minutes a run asks the org whether the records behind a channel changed; 0 never.')
@minValue(0)
@maxValue(1440)
param silenceCheckMinutes int = 15

@description('Where a channel starts that was never captured.')
@allowed(['tip', 'earliest'])
param start string = 'tip'

@description('How a channel goes on after lost continuity.')
@allowed(['earliest', 'tip', 'stop'])
param onReplayExpired string = 'earliest'

@description('Container of the events. Another name is another log.')
param eventsContainer string = 'cdc-events'

@description('Container of checkpoints and records. Another name is another log.')
param checkpointsContainer string = 'cdc-checkpoints'

// --- size --------------------------------------------------------------------------------------------------------------

@description('Memory of an instance. A run is billed by memory and time, so this decides the bill.')
@allowed([512, 2048, 4096])
param instanceMemoryMB int = 512

@description('Most instances of one timer function; one at a time is ever busy.')
@minValue(1)
@maxValue(1000)
param maximumInstanceCount int = 40

@description('Channel groups (capture1, capture2, …) that keep an instance warm; billed also while idle.')
param alwaysReadyGroups array = []

@description('Python of the app.')
@allowed(['3.11', '3.12', '3.13'])
param pythonVersion string = '3.12'

// --- storage -----------------------------------------------------------------------------------------------------------

@description('Data account with a hierarchical namespace (Data Lake Storage Gen2). It cannot be changed later.')
param isDataHierarchical bool = true

@description('Redundancy of the data account.')
@allowed(['Standard_LRS', 'Standard_ZRS', 'Standard_GRS', 'Standard_GZRS', 'Standard_RAGRS', 'Standard_RAGZRS'])
param dataRedundancy string = 'Standard_LRS'

@description('Days until a segment moves to the cool tier; 0: never.')
@minValue(0)
@maxValue(36500)
param coolAfterDays int = 30

@description('Days for which deleted blobs can be restored.')
@minValue(1)
@maxValue(365)
param restoreDays int = 7

// --- people, logs, network ---------------------------------------------------------------------------------------------

@description('Object id of who operates the app: may put the secret and use both containers. Empty: nobody.')
param operatorPrincipalId string = ''

@allowed(['User', 'Group', 'ServicePrincipal'])
param operatorPrincipalType string = 'User'

@description('Address that the action group mails. Empty: alerts are only seen in the portal, and nobody is woken.')
param alertEmail string = ''

@description('The alert rules are evaluated. Off while nothing is to be captured.')
param areAlertsEnabled bool = true

@description('Minutes without an ok run until a channel group is missed; three times the pause between starts, at least.')
@allowed([15, 30, 45, 60, 120, 180, 360])
param alertWithoutOkRunMinutes int = 15

@description('Seconds from commit to landed, the median of a run, above which lag is an alert.')
@minValue(1)
param alertLagSeconds int = 900

@description('Where your people find docs/operations.md, like its URL; each alert names its section there.')
param operationsPage string = 'docs/operations.md'

@description('Days for which logs are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 30

@description('Subnet for the app, delegated to Microsoft.App/environments. With it, storage and vault admit this subnet alone.')
param subnetId string = ''

@description('IPv4 addresses that data account and vault admit besides subnetId, like the operator\'s.')
param allowedIpAddresses array = []

@description('Storage and vault by private endpoints only. The endpoints are yours to make (docs/deploy.md); needs subnetId.')
param isPublicAccessOff bool = false

// ---------------------------------------------------------------------------------------------------------------------

var token = uniqueString(resourceGroup().id, environmentName)
var tags = { 'azd-env-name': environmentName }
var packageContainer = 'app-package'
var secretName = empty(salesforceUsername) ? 'salesforce-client-secret' : 'salesforce-private-key'
var publicNetworkAccess = isPublicAccessOff ? 'Disabled' : 'Enabled'

module identity 'app/identity.bicep' = {
  name: 'identity'
  params: {
    name: 'id-cdc-${environmentName}'
    location: location
    tags: tags
  }
}

module monitoring 'app/monitoring.bicep' = {
  name: 'monitoring'
  params: {
    workspaceName: 'log-cdc-${environmentName}'
    componentName: 'appi-cdc-${environmentName}'
    actionGroupName: 'ag-cdc-${environmentName}'
    workbookTitle: 'Change events (cdc ${environmentName})'
    location: location
    tags: tags
    retentionDays: logRetentionDays
    alertEmail: alertEmail
  }
}

module alerts 'app/alerts.bicep' = {
  name: 'alerts'
  params: {
    environmentName: environmentName
    location: location
    tags: tags
    componentId: monitoring.outputs.componentId
    actionGroupId: monitoring.outputs.actionGroupId
    channels: channels
    withoutOkRunMinutes: alertWithoutOkRunMinutes
    lagBoundSeconds: alertLagSeconds
    operationsPage: operationsPage
    isEnabled: areAlertsEnabled
  }
}

module hostStorage 'app/storage.bicep' = {
  name: 'host-storage'
  params: {
    name: 'cdchost${token}'
    location: location
    tags: tags
    redundancy: 'Standard_LRS'
    containerNames: [packageContainer]
    restoreDays: restoreDays
    subnetId: subnetId
    allowedIpAddresses: []
    publicNetworkAccess: publicNetworkAccess
    workspaceId: monitoring.outputs.workspaceId
    loggedRequests: ['StorageDelete']
  }
}

module dataStorage 'app/storage.bicep' = {
  name: 'data-storage'
  params: {
    name: dataAccountName
    location: location
    tags: tags
    redundancy: dataRedundancy
    isHierarchical: isDataHierarchical
    containerNames: [eventsContainer, checkpointsContainer]
    coolPrefixes: ['${eventsContainer}/data/', '${eventsContainer}/event/']
    coolAfterDays: coolAfterDays
    restoreDays: restoreDays
    subnetId: subnetId
    allowedIpAddresses: allowedIpAddresses
    publicNetworkAccess: publicNetworkAccess
    workspaceId: monitoring.outputs.workspaceId
    loggedRequests: ['StorageWrite', 'StorageDelete']
  }
}

module keyVault 'app/keyvault.bicep' = {
  name: 'key-vault'
  params: {
    name: 'kv-cdc-${token}'
    location: location
    tags: tags
    secretName: secretName
    secretValue: salesforceSecret
    subnetId: subnetId
    allowedIpAddresses: allowedIpAddresses
    publicNetworkAccess: publicNetworkAccess
    workspaceId: monitoring.outputs.workspaceId
  }
}

module roles 'app/roles.bicep' = {
  name: 'roles'
  params: {
    appPrincipalId: identity.outputs.principalId
    hostAccountName: hostStorage.outputs.name
    dataAccountName: dataStorage.outputs.name
    eventsContainer: eventsContainer
    checkpointsContainer: checkpointsContainer
    vaultName: keyVault.outputs.name
    componentName: monitoring.outputs.componentName
    operatorPrincipalId: operatorPrincipalId
    operatorPrincipalType: operatorPrincipalType
  }
}

module function 'app/function.bicep' = {
  name: 'function'
  params: {
    planName: 'plan-cdc-${environmentName}'
    name: functionAppName
    location: location
    tags: union(tags, { 'azd-service-name': 'capture' })
    pythonVersion: pythonVersion
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    alwaysReadyGroups: alwaysReadyGroups
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    hostBlobServiceUri: hostStorage.outputs.blobServiceUri
    packageContainer: packageContainer
    dataBlobServiceUri: dataStorage.outputs.blobServiceUri
    subnetId: subnetId
    applicationInsightsConnectionString: monitoring.outputs.connectionString
    loginUrl: salesforceLoginUrl
    clientId: salesforceClientId
    username: salesforceUsername
    secretUri: '${keyVault.outputs.uri}secrets/${secretName}'
    apiVersion: salesforceApiVersion
    channels: channels
    schedule: schedule
    runSeconds: runSeconds
    silenceCheckMinutes: silenceCheckMinutes
    start: start
    onReplayExpired: onReplayExpired
    eventsContainer: eventsContainer
    checkpointsContainer: checkpointsContainer
  }
  dependsOn: [roles] // without its rights the app cannot even start
}

output functionAppName string = function.outputs.name
output keyVaultName string = keyVault.outputs.name
output secretName string = secretName
output dataAccountName string = dataStorage.outputs.name
output dataBlobServiceUri string = dataStorage.outputs.blobServiceUri
output identityPrincipalId string = identity.outputs.principalId
